/* How a function of the program is called for an access that the program had forbidden: on the program's own stack, as if
 * the instruction that faulted had called it.
 *
 * Whoever lets the program go on at run_handler has put four words below the red zone of the interrupted stack, and rsp
 * points at the lowest: the handler, the address, whether it was a write, the interrupted rip.  All registers are as
 * they were, and are so again when the instruction is tried once more.  The stack is the program's, so each push may
 * page-fault; nothing is lost by that.  The kernel is not entered.
 *
 * Assembled into the native library and into the stub, each of which has a no_handler: it takes the handler away, so
 * that the access ends the program in the ordinary manner.
 */
    .text
    .globl run_handler
    .hidden run_handler
    .type run_handler, @function
run_handler:
    pushfq
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %rbp
    mov %rsp, %rbp
    cld
    sub $512, %rsp
    and $-16, %rsp
    fxsave64 (%rsp)
    mov 96(%rbp), %rdi
    mov 104(%rbp), %rsi
    call *88(%rbp)
    test %eax, %eax
    jnz 1f
    call no_handler
1:  fxrstor64 (%rsp)
    mov %rbp, %rsp
    pop %rbp
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    popfq
    lea 24(%rsp), %rsp
    ret $128
    .size run_handler, . - run_handler

    .section .note.GNU-stack,"",@progbits
