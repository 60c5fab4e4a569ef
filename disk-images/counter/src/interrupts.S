# Entry points of exceptions and interrupts.

.section .text

# An exception is fatal here: it is reported and never returned from. Some push an error code (SDM
# 3A 6.13), for the others a zero takes its place.
.irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
exception_\vector:
    .if ((0x60227D00 >> \vector) & 1) == 0
    pushq $0
    .endif
    pushq $\vector
    jmp exception_common
.endr

exception_common:
    cld
    movq %rsp, %rdi                     # &ExceptionFrame
    andq $-16, %rsp
    call exception_handler              # never returns
    ud2

# Interrupts are open only inside cpu::wait_for_interrupt and cpu::take_interrupts, which give up
# every register that a C function may change: nothing has to be saved here.
.irp line, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
irq_\line:
    movl $\line, %edi
    jmp irq_common
.endr

irq_common:
    cld
    subq $8, %rsp                       # the CPU aligned RSP to 16 and pushed five quadwords
    call irq_handler
    addq $8, %rsp
    iretq

.section .rodata
.balign 8
.global vector_table
vector_table:
.irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .quad exception_\vector
.endr
.irp line, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    .quad irq_\line
.endr
.section .text
