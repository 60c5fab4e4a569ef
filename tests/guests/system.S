# Ring-0 sequences whose effects any emulator of the SDM must agree on: prints one line for each
# case on COM1 and port E9h, which tests/oracle/system.txt holds.
#
# 32-bit protected mode, paging off, then on. A case that faults prints
#   <case> v<vector> e<error code> c<CS> i<EIP - start of the case> f<EFLAGS & 3FFFFh>  (in hex)
# and goes on with the next; one that reaches its end prints
#   <case> - <EAX> <EBX>
.set IMAGE_SECTORS, 64
.set IDT,  0x14000
.set PD,   0x15000
.set PT,   0x16000
.set STACK, 0x30000
.set USTACK, 0x34000
.set DATA, 0x40000

.set CS0, 0x08
.set DS0, 0x10
.set CS3, 0x1b
.set DS3, 0x23
.set TSS, 0x28
.set FREE, 0x30

.code16
.globl start
start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    ljmp $0, $1f
1:  sti
    mov $packet, %si
    mov $0x42, %ah
    int $0x13
    cli
    in $0x92, %al
    or $2, %al
    and $0xfe, %al
    out %al, $0x92
    lgdt gdt_pointer
    mov %cr0, %eax
    or $1, %al
    and $~0xc, %eax
    mov %eax, %cr0
    ljmp $CS0, $protected

.balign 4
packet:
    .byte 16, 0
    .word IMAGE_SECTORS - 1
    .word 0x7e00, 0
    .quad 1
.org 0x1b8
    .long 0x46544d56
.org 0x1fe
    .word 0xaa55

.balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00cffa000000ffff, 0x00cff2000000ffff
    .quad 0                     # TSS
    .fill 16, 8, 0              # for the cases
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
idt_pointer:
    .word 0x7ff
    .long IDT

.code32
protected:
    mov $DS0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov $STACK, %esp
    mov $0x3fb, %edx
    mov $0x80, %al
    out %al, %dx
    mov $0x3f8, %edx
    mov $1, %al
    out %al, %dx
    inc %edx
    xor %eax, %eax
    out %al, %dx
    mov $0x3fb, %edx
    mov $3, %al
    out %al, %dx
    # IDT: a stub of 8 bytes for each vector, DPL 3
    xor %ecx, %ecx
1:  lea stubs(, %ecx, 8), %eax
    mov %eax, %edx
    and $0xffff, %eax
    or $CS0 << 16, %eax
    mov %eax, IDT(, %ecx, 8)
    and $0xffff0000, %edx
    or $0xee00, %edx
    mov %edx, IDT + 4(, %ecx, 8)
    inc %ecx
    cmp $256, %ecx
    jb 1b
    lidt idt_pointer
    # TSS
    movl $STACK, tss + 4
    movl $DS0, tss + 8
    movw $0x68, tss + 0x66
    movl $(tss_end - tss - 1), gdt + TSS
    mov $tss, %eax
    mov %ax, gdt + TSS + 2
    shr $16, %eax
    mov %al, gdt + TSS + 4
    movw $0x0089, gdt + TSS + 5
    mov $TSS, %eax
    ltr %ax
    xor %eax, %eax
    lldt %ax
    # page tables: 4 MiB one to one
    xor %ecx, %ecx
1:  mov %ecx, %eax
    shl $12, %eax
    or $7, %eax
    mov %eax, PT(, %ecx, 4)
    movl $0, PD(, %ecx, 4)
    inc %ecx
    cmp $1024, %ecx
    jb 1b
    movl $PT | 7, PD
    jmp cases

.balign 8
stubs:
.set n, 0
.rept 256
    push $n
    jmp caught
    .balign 8
    .set n, n + 1
.endr

# A vector was delivered: the stack holds the vector, perhaps an error code, EIP, CS, EFLAGS.
caught:
    cld
    mov $DS0, %eax
    mov %eax, %ds
    mov %eax, %es
    pop %ebp                    # vector
    xor %edi, %edi
    cmp $17, %ebp
    ja 2f
    mov $0x27d00, %eax          # 8, 10-14, 17
    bt %ebp, %eax
    jnc 2f
    pop %edi
2:  mov case_name, %esi
    call print
    mov $'v', %al
    mov %ebp, %ebx
    call field
    mov $'e', %al
    mov %edi, %ebx
    call field
    mov $'c', %al
    mov 4(%esp), %ebx
    call field
    mov $'i', %al
    mov (%esp), %ebx
    sub case_start, %ebx
    call field
    mov $'f', %al
    mov 8(%esp), %ebx
    and $0x3ffff, %ebx
    call field
    call line
next_case:
    # back to a known state
    mov %cr0, %eax
    and $0x7ffeffff, %eax
    mov %eax, %cr0
    xor %eax, %eax
    mov %eax, %cr3
    mov %eax, %dr7
    mov $0xffff0ff0, %eax
    mov %eax, %dr6
    mov $DS0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov $STACK, %esp
    push $2
    popf
    lgdt gdt_pointer
    lidt idt_pointer
    jmp *case_next

# Reached the end of a case.
passed:
    push %ebx
    push %eax
    push $2
    popf
    mov $DS0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov case_name, %esi
    call print
    mov $'-', %al
    call put
    mov $' ', %al
    pop %ebx
    call field
    mov $' ', %al
    pop %ebx
    call field
    call line
    jmp next_case

print:
    lodsb
    test %al, %al
    jz 1f
    call put
    jmp print
1:  mov $' ', %al
    jmp put

# AL, then EBX in hexadecimal without leading zeros, then a space.
field:
    call put
    mov $8, %ecx
1:  rol $4, %ebx
    test $15, %bl
    jnz 2f
    dec %ecx
    cmp $1, %ecx
    ja 1b
    rol $4, %ebx
2:  cmp $1, %ecx
    jae 3f
    mov $1, %ecx
3:  mov %bl, %al
    and $15, %al
    cmp $10, %al
    jb 4f
    add $39, %al
4:  add $48, %al
    call put
    rol $4, %ebx
    loop 3b
    mov $' ', %al
    jmp put

line:
    mov $13, %al
    call put
    mov $10, %al
put:
    push %edx
    mov %al, %ah
    mov $0x3fd, %edx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    mov %ah, %al
    mov $0x3f8, %edx
    out %al, %dx
    out %al, $0xe9
    pop %edx
    ret

.balign 4
case_name:  .long 0
case_start: .long 0
case_next:  .long 0
.balign 16
tss:
    .fill 0x68 + 64, 1, 0
    .byte 0xff
tss_end:

# A case: CASE name, its instructions, END.
.macro CASE name
    movl $91f, case_name
    movl $92f, case_start
    movl $99f, case_next
    jmp 92f
91: .asciz "\name"
92:
.endm
.macro END
    jmp passed
99:
.endm
# Sets a descriptor: selector, low and high dword.
.macro DESC selector low high
    movl $\low, gdt + \selector
    movl $\high, gdt + \selector + 4
.endm
# To ring 3, behind this macro.
.macro RING3
    push $DS3
    push $USTACK
    push $2
    push $CS3
    push $88f
    iret
88: mov $DS3, %eax
    mov %eax, %ds
    mov %eax, %es
.endm
.macro PAGING
    mov $PD, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80010000, %eax
    mov %eax, %cr0
.endm

cases:
CASE seg.null
    xor %eax, %eax
    mov %eax, %es
    mov %es:0, %al
END
CASE seg.limit
    mov $0x110, %eax
    mov %eax, %es
END
CASE seg.ldt
    mov $4, %eax
    mov %eax, %es
END
CASE seg.notpresent
    DESC FREE 0x0000ffff 0x00cf1200
    mov $FREE, %eax
    mov %eax, %es
END
CASE seg.ss.notpresent
    DESC FREE 0x0000ffff 0x00cf1200
    mov $FREE, %eax
    mov %eax, %ss
END
CASE seg.exec_only
    DESC FREE 0x0000ffff 0x00cf9800
    mov $FREE, %eax
    mov %eax, %es
END
CASE seg.accessed
    DESC FREE 0x0000ffff 0x00cf9200
    mov $FREE, %eax
    mov %eax, %es
    mov gdt + FREE + 4, %eax
    xor %ebx, %ebx
END
CASE seg.readonly
    DESC FREE 0x0000ffff 0x00cf9000
    mov $FREE, %eax
    mov %eax, %es
    movb $1, %es:DATA
END
CASE seg.expand_down
    DESC FREE 0x00000fff 0x00409600
    mov $FREE, %eax
    mov %eax, %es
    mov %es:0x1000, %al
    mov %es:0xfff, %al
END
CASE jmp.null
    ljmp $0, $0
END
CASE jmp.data
    ljmp $DS0, $0
END
CASE jmp.dpl
    ljmp $CS3 & ~3, $0
END
CASE jmp.limit
    DESC FREE 0x00000fff 0x00409a00
    ljmp $FREE, $0x1000
END
CASE call.gate
    DESC FREE 0x00080000 0x0000ec02
    movw $1f, gdt + FREE
    RING3
    push $0x111
    push $0x222
    lcall $FREE | 3, $0
1:  mov 8(%esp), %eax           # the parameter pushed last
    mov %esp, %ebx
    sub $STACK, %ebx
END
CASE call.gate.dpl
    DESC FREE 0x00080000 0x00008c00
    RING3
    lcall $FREE | 3, $0
END
CASE call.gate.notpresent
    DESC FREE 0x00080000 0x00006c00
    RING3
    lcall $FREE | 3, $0
END
CASE call.gate.target
    DESC FREE 0x00100000 0x0000ec00
    RING3
    lcall $FREE | 3, $0
END
CASE int.dpl
    movb $0x8e, IDT + 0x40 * 8 + 5
    RING3
    int $0x40
END
CASE int.notpresent
    movb $0x6e, IDT + 0x41 * 8 + 5
    int $0x41
END
CASE int.type
    movb $0xec, IDT + 0x42 * 8 + 5
    int $0x42
END
CASE int.limit
    push $IDT
    push $0x2ff0000
    lidt 2(%esp)
    int $0x60
END
CASE int.code_null
    movw $0, IDT + 0x43 * 8 + 2
    int $0x43
END
CASE int.code_data
    movw $DS0, IDT + 0x44 * 8 + 2
    int $0x44
END
CASE int.ring3
    RING3
    int $0x45
END
CASE int3
    int3
END
CASE into
    mov $0x7f, %al
    inc %al
    into
END
CASE bound
    movl $5, DATA
    movl $9, DATA + 4
    mov $10, %eax
    bound %eax, DATA
END
CASE ud2
    ud2
END
CASE ud.lock
    .byte 0xf0, 0x01, 0xc0
END
CASE too_long
    .fill 15, 1, 0x2e
    nop
END
CASE divide
    xor %edx, %edx
    xor %ebx, %ebx
    mov $1, %eax
    div %ebx
END
CASE df
    movw $0, IDT + 11 * 8 + 2
    DESC FREE 0x0000ffff 0x00cf1200
    mov $FREE, %eax
    mov %eax, %es
END
    movw $CS0, IDT + 11 * 8 + 2
CASE priv.hlt
    RING3
    hlt
END
CASE priv.cr
    RING3
    mov %cr0, %eax
END
CASE priv.cli
    RING3
    cli
END
CASE priv.in
    RING3
    in $0x80, %al
    mov $0x222, %edx
    in %dx, %al
END
CASE iret.null_cs
    push $2
    push $0
    push $0
    iret
END
CASE iret.ss
    push $DS0
    push $USTACK
    push $2
    push $CS3
    push $1f
    iret
1:
END
CASE iret.ring3_to_0
    RING3
    push $2
    push $CS0
    push $1f
    iret
1:
END
CASE iret.drops_ds
    push $DS3
    push $USTACK
    push $2
    push $CS3
    push $1f
    iret
1:  mov %ds, %eax
    mov %es, %ebx
    int $0x50
END
CASE iret.flags
    RING3
    push $0x3a02                # IF and IOPL may not change in ring 3
    popf
    int $0x51
END
CASE v86
    push $0                     # GS, FS, DS, ES
    push $0
    push $0
    push $0
    push $0
    push $0x7000
    push $0x20002
    push $0
    push $v86_code - start + 0x7c00
    iret
END
CASE retf.outer
    push $DS3
    push $USTACK
    push $CS3
    push $1f
    lret
1:  int $0x52
END
CASE tf
    push $0x102
    popf
    nop
    nop
END
CASE tf.int
    push $0x102
    popf
    int $0x53
END
CASE tf.ss
    push $0x102
    push %ss
    popl %eax
    popf
    mov %eax, %ss
    nop
    nop
END
CASE icebp
    .byte 0xf1
END
CASE dr.code
    mov $1f, %eax
    mov %eax, %dr0
    mov $0x402, %eax
    mov %eax, %dr7
    nop
1:  nop
END
CASE dr.write
    mov $DATA, %eax
    mov %eax, %dr1
    mov $0xd00408, %eax
    mov %eax, %dr7
    mov DATA, %ebx
    mov %ebx, DATA
    nop
END
CASE dr.gd
    mov $0x2400, %eax
    mov %eax, %dr7
    mov %dr0, %eax
END
CASE dr.de
    mov %cr4, %eax
    or $8, %eax
    mov %eax, %cr4
    mov %dr4, %eax
END
    mov %cr4, %eax
    and $~8, %eax
    mov %eax, %cr4
CASE cr0.nw
    mov %cr0, %eax
    or $0x20000000, %eax
    and $0xbfffffff, %eax
    mov %eax, %cr0
END
CASE pf.notpresent
    PAGING
    movl $0, PT + 0x50 * 4
    invlpg 0x50000
    mov 0x50000, %al
END
CASE pf.write
    PAGING
    movl $0x50005, PT + 0x50 * 4
    invlpg 0x50000
    mov 0x50000, %al
    mov %al, 0x50000
END
CASE pf.user
    movl $0x50003, PT + 0x50 * 4
    PAGING
    RING3
    mov 0x50000, %al
END
CASE pf.user_write
    movl $0x50005, PT + 0x50 * 4
    PAGING
    RING3
    mov %al, 0x50000
END
CASE pf.dirty
    movl $0x50007, PT + 0x50 * 4
    movl $0x51007, PT + 0x51 * 4
    PAGING
    mov 0x50000, %al
    mov %al, 0x51000
    mov PT + 0x50 * 4, %eax
    mov PT + 0x51 * 4, %ebx
END
CASE pf.crossing
    movl $0x50007, PT + 0x50 * 4
    movl $0, PT + 0x51 * 4
    PAGING
    mov %eax, 0x50ffe
END
CASE task
    movl $(0x67), gdt + FREE
    mov $tss2, %eax
    mov %ax, gdt + FREE + 2
    shr $16, %eax
    mov %al, gdt + FREE + 4
    movw $0x0089, gdt + FREE + 5
    movl $1f, tss2 + 0x20
    movl $2, tss2 + 0x24
    movl $0x77, tss2 + 0x28
    movl $STACK, tss2 + 0x38
    movl $DS0, tss2 + 0x48
    movl $CS0, tss2 + 0x4c
    movl $DS0, tss2 + 0x50
    movl $DS0, tss2 + 0x54
    movl $0, tss2 + 0x60
    lcall $FREE, $0
    mov gdt + FREE + 4, %ebx
    jmp 2f
1:  pushf
    pop DATA
    iret
2:  mov DATA, %eax
END
CASE task.busy
    movb $0x8b, gdt + FREE + 5
    ljmp $FREE, $0
END
CASE task.small
    movl $0x66, %eax
    movw %ax, gdt + FREE
    movb $0x89, gdt + FREE + 5
    ljmp $FREE, $0
END
    xor %eax, %eax
    out %al, $0xf4
    # Bochs
    mov $0x8900, %edx
    mov $bye, %esi
1:  lodsb
    test %al, %al
    jz 2f
    out %al, %dx
    jmp 1b
2:  cli
    hlt
bye: .asciz "Shutdown"

.code16
v86_code:
    mov $0x1234, %ax
    push %ax
    pop %bx
    int3
.code32
.balign 16
tss2: .fill 0x68, 1, 0
.org IMAGE_SECTORS * 512
