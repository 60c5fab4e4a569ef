# Loops: taken and untaken branches, calls, indirect jumps, nested counters; no instruction faults.
.include "boot.inc"

main:
    mov $1000, %ecx
    COUNT_BEGIN
1:  dec %ecx                    # 2 instructions a round
    jnz 1b
    COUNT_END loop.plain

    # Nested: 300 x (2 + 500 x 4) + 1 or so; the inner branch is taken every other time.
    mov $300, %r8d
    COUNT_BEGIN
1:  mov $500, %r9d
2:  test $1, %r9d
    jz 3f
    inc %r10
3:  dec %r9d
    jnz 2b
    dec %r8d
    jnz 1b
    COUNT_END loop.nested

    # Recursion: fib(18), and a jump table.
    mov $18, %edi
    COUNT_BEGIN
    call fib
    COUNT_END loop.calls

    mov $20000, %r8d
    xor %r9d, %r9d
    COUNT_BEGIN
1:  mov %r8d, %ecx
    and $3, %ecx
    mov table(, %rcx, 8), %rax
    jmp *%rax
case0:
    inc %r9
case1:
    inc %r9
case2:
    inc %r9
case3:
    loop 2f                     # not taken for case 1
2:  dec %r8d
    jnz 1b
    COUNT_END loop.indirect
    jmp exit

fib:
    cmp $2, %edi
    jb 1f
    push %rdi
    dec %edi
    call fib
    pop %rdi
    push %rax
    sub $2, %edi
    call fib
    pop %rdx
    add %rdx, %rax
    ret
1:  mov %edi, %eax
    ret

.balign 8
table:
    .quad case0, case1, case2, case3
.org IMAGE_SECTORS * 512
