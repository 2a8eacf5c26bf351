/* os_rpc_serve: where calls of other environments arrive.
 *
 * `serve` remembers the stack pointer, and each call goes on at rpc_entry with it; the call's arguments are those of a C
 * function already, and the handler stands in rbx, which every handler leaves as it was.  Its result is the first word of
 * the reply; the others are nothing of ours.
 */
#include <exo.h>

    .text
    .globl os_rpc_serve
    .type os_rpc_serve, @function
os_rpc_serve:
    push %rbx
    mov %rdi, %rbx
    mov $EXO_UPCALL_CALL, %edi
    lea rpc_entry(%rip), %rsi
    xor %edx, %edx
    mov $EXO_CALL_SET_UPCALL, %eax
    syscall
    test %rax, %rax
    js 1f
    mov $EXO_CALL_SERVE, %eax
    syscall
1:  pop %rbx
    ret
    .size os_rpc_serve, . - os_rpc_serve

    .hidden rpc_entry
    .type rpc_entry, @function
rpc_entry:
    call *%rbx
    mov %rax, %rdi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    mov $EXO_CALL_REPLY, %eax
    syscall
    .size rpc_entry, . - rpc_entry

    .section .note.GNU-stack,"",@progbits
