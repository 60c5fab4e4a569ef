# The block-memory functions that compiled code calls (there is no C library here): RDI, RSI, RDX
# in, RAX out.

.section .text
.global memcpy, memmove, memset, memcmp, bcmp

memmove:
    movq %rdi, %rax
    subq %rsi, %rax
    cmpq %rdx, %rax                     # unsigned: does the destination start inside the source?
    jae memcpy
    movq %rdi, %rax
    leaq -1(%rdi,%rdx), %rdi
    leaq -1(%rsi,%rdx), %rsi
    movq %rdx, %rcx
    std
    rep movsb
    cld
    ret

memcpy:
    movq %rdi, %rax
    movq %rdx, %rcx
    shrq $3, %rcx
    rep movsq
    movl %edx, %ecx
    andl $7, %ecx
    rep movsb
    ret

memset:
    movq %rdi, %r8
    movzbl %sil, %eax
    movabsq $0x0101010101010101, %rcx
    imulq %rcx, %rax
    movq %rdx, %rcx
    shrq $3, %rcx
    rep stosq
    movl %edx, %ecx
    andl $7, %ecx
    rep stosb
    movq %r8, %rax
    ret

bcmp:
memcmp:
    xorl %eax, %eax
    movq %rdx, %rcx
    testq %rcx, %rcx                    # with RCX = 0 CMPSB leaves the flags as they are
    jz 1f
    repe cmpsb
    je 1f
    movzbl -1(%rdi), %eax
    movzbl -1(%rsi), %ecx
    subl %ecx, %eax
1:  ret
