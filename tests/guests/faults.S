# Faults with handlers of its own: #DE, #PF, #GP (which the instruction's execution raises), #BP
# and INT n (traps: the instruction retires), and #UD. A faulting instruction does not retire, so
# it adds nothing to the count; the delivery of an exception is not an instruction either. (QEMU
# counts UD2 all the same, see tests/oracle/counts.txt; that section stands last and alone.)
.include "boot.inc"

.macro GATE vector handler
    mov $\vector, %edi
    mov $\handler, %esi
    call set_gate
.endm

main:
    GATE 0, divide
    GATE 3, trap
    GATE 6, undefined
    GATE 13, protection
    GATE 14, page
    GATE 0x40, trap

    # 1000 x: DIV by zero, skipped by the handler.
    mov $1000, %ecx
    xor %ebx, %ebx
    COUNT_BEGIN
1:  xor %edx, %edx
    div %ebx
    dec %ecx
    jnz 1b
    COUNT_END fault.de

    # 1000 x: the probe page is taken away, a store to it faults, the handler maps it, the store
    # is done again.
    mov $1000, %ecx
    COUNT_BEGIN
1:  andb $0xfe, PROBE_PTE
    invlpg PROBE
    incl PROBE + 8
    dec %ecx
    jnz 1b
    COUNT_END fault.pf

    # 1000 x: a load from a non-canonical address, skipped.
    mov $1000, %ecx
    mov $0x8000000000000000, %rbx
    COUNT_BEGIN
1:  mov (%rbx), %rbp
    dec %ecx
    jnz 1b
    COUNT_END fault.gp

    # 1000 x: INT3 and INT 0x40.
    mov $1000, %ecx
    COUNT_BEGIN
1:  int3
    int $0x40
    dec %ecx
    jnz 1b
    COUNT_END fault.trap

    # 1000 x: UD2, skipped.
    mov $1000, %ecx
    COUNT_BEGIN
1:  ud2
    dec %ecx
    jnz 1b
    COUNT_END fault.ud
    jmp exit

divide:                         # DIV EBX is two bytes
    addq $2, (%rsp)
    iretq
undefined:                      # UD2 is two bytes
    addq $2, (%rsp)
    iretq
protection:                     # MOV (RBX),RBP is three bytes
    add $8, %rsp
    addq $3, (%rsp)
    iretq
trap:
    iretq
page:
    orb $1, PROBE_PTE
    add $8, %rsp
    iretq
.org IMAGE_SECTORS * 512
