# Boot sector and loader: from the BIOS's real mode to Rust in long mode.
#
# The BIOS loads sector 0 at 0000:7C00 with the drive in DL. The sector fetches the other seven
# sectors of the loader, which loads the system to 0x10000 by INT 13h extensions, opens A20, asks
# INT 15h E820 for the memory map, builds an identity mapping of 4 GiB in 2 MiB pages and enters
# long mode.
#
#   0x0500  E820 entries, 24 bytes each, at most 100     0x1000  PML4, PDPT, four page directories
#   0x7C00  this code; the stack grows down from here    0x10000 the system

.equ E820_MAP, 0x500
.equ E820_MAX, 100
.equ PML4, 0x1000
.equ PDPT, 0x2000
.equ PAGE_DIRECTORIES, 0x3000
.equ SYSTEM_LBA, 64
.equ SECTORS_PER_READ, 64              # 32 KiB: a transfer never crosses a 64 KiB boundary

.section .boot, "awx"
.code16
.global boot_sector
boot_sector:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7C00, %sp
    ljmp $0, $1f
1:
    sti
    movb %dl, boot_drive

    movb $0x41, %ah                     # extensions present?
    movw $0x55AA, %bx
    int $0x13
    movw $no_extensions, %si
    jc fail
    cmpw $0xAA55, %bx
    jne fail
    testb $1, %cl
    jz fail

    call read_sectors                   # the rest of the loader, as packet says
    jmp load_system

# Reads what `packet` says from the boot drive; does not return on error.
read_sectors:
    movw $packet, %si
    movb boot_drive, %dl
    movb $0x42, %ah
    int $0x13
    movw $read_error, %si
    jc fail
    ret

# Prints the text at SI and stops for good.
fail:
    cld
1:  lodsb
    testb %al, %al
    jz 2f
    movb $0x0E, %ah
    movw $7, %bx
    int $0x10
    jmp 1b
2:  cli
    hlt
    jmp 2b

no_extensions:  .asciz "counter: the BIOS has no INT 13h extensions\r\n"
read_error:     .asciz "counter: disk read error\r\n"
boot_drive:     .byte 0

.balign 4
packet:         .byte 16, 0             # disk address packet (EDD 3.0)
packet_count:   .word 7
packet_offset:  .word 0x7E00
packet_segment: .word 0
packet_lba:     .quad 1

    .org boot_sector + 510
    .word 0xAA55

# ---- the seven sectors that follow ----

load_system:
    movw $0, packet_offset
    movw $0x1000, packet_segment
    movl $SYSTEM_LBA, packet_lba
    movw $kernel_sectors, %bp           # sectors still to read
1:  movw $SECTORS_PER_READ, %ax
    cmpw %ax, %bp
    jae 2f
    movw %bp, %ax
2:  movw %ax, packet_count
    pushw %ax
    call read_sectors
    popw %ax
    subw %ax, %bp
    movzwl %ax, %ecx
    addl %ecx, packet_lba
    shlw $5, %ax                        # sectors to paragraphs
    addw %ax, packet_segment
    testw %bp, %bp
    jnz 1b

    call enable_a20
    call read_memory_map

    movw $0x0003, %ax                   # 80x25 text
    int $0x10

    movl $0x80000000, %eax              # a 64-bit CPU?
    cpuid
    movw $no_long_mode, %si
    cmpl $0x80000001, %eax
    jb fail
    movl $0x80000001, %eax
    cpuid
    movw $no_long_mode, %si
    btl $29, %edx
    jnc fail

    cli
    lgdtl gdt_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmp $0x08, $protected_mode

# Opens the A20 gate: by the BIOS, else by port 92h.
enable_a20:
    call a20_is_open
    je 1f
    movw $0x2401, %ax
    int $0x15
    call a20_is_open
    je 1f
    inb $0x92, %al
    orb $2, %al
    andb $0xFE, %al                     # bit 0 would reset the machine
    outb %al, $0x92
    call a20_is_open
    movw $a20_closed, %si
    jne fail
1:  ret

# Sets ZF when 0000:7DFE (the boot signature) and FFFF:7E0E are two different cells.
a20_is_open:
    pushw %es
    movw $0xFFFF, %ax
    movw %ax, %es
    movw 0x7DFE, %bx
    notw %es:0x7E0E                     # NOT leaves the flags alone
    cmpw 0x7DFE, %bx
    notw %es:0x7E0E
    popw %es
    ret

# Stores the E820 map at E820_MAP and the number of its entries in memory_map_count.
read_memory_map:
    movw $E820_MAP, %di
    xorl %ebx, %ebx
1:  movl $0xE820, %eax
    movl $0x534D4150, %edx              # "SMAP"
    movl $24, %ecx
    movl $1, 20(%di)                    # ACPI 3.0 attributes, for a BIOS that returns 20 bytes
    int $0x15
    jc 2f
    cmpl $0x534D4150, %eax
    jne 2f
    addw $24, %di
    incw memory_map_count
    testl %ebx, %ebx
    jz 2f
    cmpw $E820_MAX, memory_map_count
    jb 1b
2:  ret

.code32
protected_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss

    movl $PML4, %edi                    # six empty tables
    xorl %eax, %eax
    movl $(6 * 4096 / 4), %ecx
    rep stosl
    movl $(PDPT + 3), PML4
    movl $PDPT, %edi
    movl $(PAGE_DIRECTORIES + 3), %eax
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b

    movl $PAGE_DIRECTORIES, %edi
    movl $0x83, %eax                    # present, writable, 2 MiB
    movl $2048, %ecx
2:  movl %eax, (%edi)
    cmpl $0xC0000000, %eax
    jb 3f
    orl $0x18, (%edi)                   # the top GiB holds devices: not cached
3:  addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl %cr4, %eax
    orl $0x620, %eax                    # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xC0000080, %ecx              # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xFFFFFFF3, %eax              # no EM, no TS
    orl $0x80010022, %eax               # PG, WP, NE, MP
    movl %eax, %cr0
    ljmp $0x18, $long_mode

.code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    shrl $3, %ecx
    rep stosq
    fninit
    movl $stack_top, %esp
    xorl %ebp, %ebp
    movl $E820_MAP, %edi
    movzwl memory_map_count, %esi
    call kernel_main                    # never returns
    ud2

a20_closed:     .asciz "counter: the A20 gate stays closed\r\n"
no_long_mode:   .asciz "counter: this CPU has no long mode\r\n"
memory_map_count: .word 0

.balign 8
.global gdt
gdt:            .quad 0
                .quad 0x00CF9B000000FFFF    # 0x08: 32-bit code
                .quad 0x00CF93000000FFFF    # 0x10: data
                .quad 0x00AF9B000000FFFF    # 0x18: 64-bit code
.global gdt_tss
gdt_tss:        .quad 0, 0                  # 0x20: the TSS, filled in by interrupts.rs
gdt_end:
gdt_pointer:    .word gdt_end - gdt - 1
                .quad gdt

    .org boot_sector + 0x1000

.section .bss.stack, "aw", @nobits
.balign 4096
    .skip 65536
stack_top:
.section .text
