/* The entry of every C program: from the library OS's convention to C's, and back when main returns.
 *
 * At entry rdi points to a struct os_arguments and rsp is a multiple of 16; every other register is worth nothing.
 */
    .text
    .globl _start
    .type _start, @function
_start:
    xor %ebp, %ebp
    lea 8(%rdi), %rsi
    mov (%rdi), %rdi
    call main
    mov %eax, %ebx
    call flush
    mov %ebx, %edi
    call os_exit
    .size _start, . - _start
    .section .note.GNU-stack, "", @progbits
