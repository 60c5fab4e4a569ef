# REP string instructions: each iteration has its own instruction count. (QEMU counts one more for
# each REP that runs out of RCX: its last look at RCX, see tests/oracle/counts.txt.)
.include "boot.inc"

main:
    mov $0x18000, %edi
    mov $100, %ecx
    xor %eax, %eax
    COUNT_BEGIN
    rep stosb
    COUNT_END rep.stos100

    mov $0x18000, %edi
    xor %ecx, %ecx
    COUNT_BEGIN
    rep stosb
    COUNT_END rep.stos0

    mov $0x18000, %edi
    mov $0x2000, %ecx
    xor %eax, %eax
    rep stosb
    mov $0x18000, %edi
    mov $0x19000, %esi
    mov $100, %ecx
    movb $1, 0x18000 + 40
    COUNT_BEGIN
    repe cmpsb                  # iteration 41 finds the difference
    COUNT_END rep.cmps
    jmp exit
.org IMAGE_SECTORS * 512
