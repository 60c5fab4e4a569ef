# A straight line: every instruction is executed once, no branch is taken, no instruction faults.
.include "boot.inc"

main:
    mov $0x18000, %ebx
    xor %eax, %eax
    xor %ecx, %ecx
    finit
    # What the measurement itself costs: two moves and the second RDTSC.
    COUNT_BEGIN
    COUNT_END straight.empty

    mov $0x18000, %ebx
    COUNT_BEGIN
    .rept 500
    nop
    .endr
    COUNT_END straight.nop

    mov $0x18000, %ebx
    COUNT_BEGIN
    .rept 100                   # 20 instructions a round
    mov $0x12345678, %eax
    add %rbx, %rax
    imul $77, %rax, %rcx
    mov %rcx, (%rbx)
    xor 4(%rbx), %ecx
    adc $0, %rcx
    rol $5, %rcx
    push %rcx
    pop %rsi
    lea 8(%rbx), %rdi
    bsr %rdi, %rdx
    setc %al
    cmovz %rdi, %rdx
    movq %rdx, %xmm0
    cvtsi2sd %rcx, %xmm1
    addsd %xmm1, %xmm0
    fldpi
    fstpl 16(%rbx)
    stosb
    cpuid
    .endr
    COUNT_END straight.mixed
    jmp exit
.org IMAGE_SECTORS * 512
