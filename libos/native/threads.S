/* Where threads change: registers in and out of the blocks that threads.h describes.
 *
 * A thread that gives up the processor itself has called a function, so only what C preserves across a call is saved:
 * six registers, the stack pointer, the control words, and the base of fs.  A thread that is preempted loses nothing.
 */
#include "threads.h"

    .text

    .macro SAVE thread
    mov %rbx, THREAD_RBX(\thread)
    mov %rbp, THREAD_RBP(\thread)
    mov %r12, THREAD_R12(\thread)
    mov %r13, THREAD_R13(\thread)
    mov %r14, THREAD_R14(\thread)
    mov %r15, THREAD_R15(\thread)
    stmxcsr THREAD_MXCSR(\thread)
    fnstcw THREAD_FCW(\thread)
    rdfsbase %rax
    mov %rax, THREAD_FS(\thread)
    mov %rsp, THREAD_RSP(\thread)
    .endm

/* Calls a function of the scheduler with up to three arguments, critical and on this processor's library stack.  It
 * gives the thread to go on with, which may be another; thread_call comes back when it is this one's turn again, with
 * the thread's result. */
    HIDDEN thread_call
    movabs $OWN_CRITICAL, %rax
    incq %gs:(%rax)
    lea processors(%rip), %r9
    mov %gs:PROCESSOR_THREAD(%r9), %r8
    SAVE %r8
    mov %gs:PROCESSOR_STACK_TOP(%r9), %rsp
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    call *%rax

/* Goes on with the thread in rax, whom nobody else knows any more. */
resume_thread:
    cmpq $0, THREAD_PREEMPTED(%rax)
    jne 3f
    mov THREAD_RBX(%rax), %rbx
    mov THREAD_RBP(%rax), %rbp
    mov THREAD_R12(%rax), %r12
    mov THREAD_R13(%rax), %r13
    mov THREAD_R14(%rax), %r14
    mov THREAD_R15(%rax), %r15
    ldmxcsr THREAD_MXCSR(%rax)
    fldcw THREAD_FCW(%rax)
    mov THREAD_FS(%rax), %rcx
    wrfsbase %rcx
    mov THREAD_RSP(%rax), %rsp
    mov THREAD_RESULT(%rax), %rax
    movabs $OWN_CRITICAL, %rdx
    decq %gs:(%rdx)
    jnz 1f
    cmpq $0, %gs:OWN_CPU_WANTED - OWN_CRITICAL(%rdx)
    jne 2f
1:  ret
2:  push %rax
    call honour
    pop %rax
    ret
3:  movq $0, THREAD_PREEMPTED(%rax)
    lea processors(%rip), %rcx
    mov %gs:PROCESSOR_STACK_TOP(%rcx), %rdi
    sub $EVERYTHING_SIZE, %rdi
    lea THREAD_EVERYTHING(%rax), %rsi
    mov %rdi, %rsp
    mov $EVERYTHING_SIZE / 8, %ecx
    rep movsq
    jmp everything_back
    .size thread_call, . - thread_call

/* Forgets what is on this processor's library stack: the function gives the thread to go on with. */
    HIDDEN start_over
    lea processors(%rip), %rax
    mov %gs:PROCESSOR_STACK_TOP(%rax), %rsp
    call *%rdi
    jmp resume_thread

/* Leaves this library stack, with everything on it, to the thread, until that goes on; the function runs at the top of
 * another one, and gives the thread to go on with.  Called in an up-call, so the vector registers are the program's. */
    HIDDEN suspend
    sub $VECTORS_SIZE + 8, %rsp
    fxsave64 (%rsp)
    lea 1f(%rip), %rax
    push %rax
    SAVE %rdi
    mov %rsi, %rsp
    call *%rdx
    jmp resume_thread
1:  fxrstor64 (%rsp)
    add $VECTORS_SIZE + 8, %rsp
    ret

/* A thread's first instruction: its function is in rbx and the argument in r12. */
    HIDDEN thread_begin
    mov %r12, %rdi
    xor %ebp, %ebp
    call *%rbx
    mov %rax, %rdi
    call os_thread_exit

/* A processor's first instruction: rdi is the number of its context. */
    HIDDEN processor_begin
    imul $EXO_CONTEXT_SIZE, %rdi, %rdi
    wrgsbase %rdi
    call first_thread
    jmp resume_thread

/* Makes a down-call that gives up the processor, with up to three arguments, while critical.  The kernel keeps nothing:
 * what is to be there again lies on the stack, whose place is remembered.  Up-calls may come between, and do the same. */
    HIDDEN processor_trap
    PUSH_PRESERVED
    rdfsbase %rax
    push %rax
    lea processors(%rip), %rbx
    push %gs:PROCESSOR_RESUME_AT(%rbx)
    sub $VECTORS_SIZE + 8, %rsp
    fxsave64 (%rsp)
    mov %rsp, %gs:PROCESSOR_RESUME_AT(%rbx)
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    syscall
processor_resumed:
    lea processors(%rip), %rbx
    fxrstor64 (%rsp)
    add $VECTORS_SIZE + 8, %rsp
    pop %gs:PROCESSOR_RESUME_AT(%rbx)
    pop %rcx
    wrfsbase %rcx
    POP_PRESERVED
    ret
    .size processor_trap, . - processor_trap

/* The up-call: reason, value and the context's number in rdi, rsi and rdx.  The section is critical, as it was. */
    HIDDEN entry_resume_cpu
    imul $EXO_CONTEXT_SIZE, %rdx, %rdx
    wrgsbase %rdx
    lea processors(%rip), %rcx
    mov %gs:PROCESSOR_RESUME_AT(%rcx), %rsp
    mov %rsi, %rax
    jmp processor_resumed

/* The up-call; also where another handler ends that finds the processor wanted, with the same on the stack: rdi and the
 * frame for iretq.  What has been asked for until the section is open is seen to at once. */
    HIDDEN entry_please_release_cpu
    push %rsi
    push %rdx
    push %rax
    push %rcx
    push %r8
    push %r9
    push %r10
    push %r11
    PUSH_PRESERVED
    rdfsbase %rax
    push %rax
    sub $VECTORS_SIZE + 8, %rsp
    fxsave64 (%rsp)
    movabs $OWN_CRITICAL, %rbx
1:  incq %gs:(%rbx)
    mov %rsp, %rdi
    call handle_please_release_cpu
everything_back:
    movabs $OWN_CRITICAL, %rbx
    andq $~(1 << EXO_UPCALL_PLEASE_RELEASE_CPU), %gs:OWN_ACTIVE - OWN_CRITICAL(%rbx)
    decq %gs:(%rbx)
    jnz 2f
    cmpq $0, %gs:OWN_CPU_WANTED - OWN_CRITICAL(%rbx)
    jne 1b
2:  fxrstor64 (%rsp)
    add $VECTORS_SIZE + 8, %rsp
    pop %rax
    wrfsbase %rax
    POP_PRESERVED
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rcx
    pop %rax
    pop %rdx
    pop %rsi
    pop %rdi
    iretq
    .size entry_please_release_cpu, . - entry_please_release_cpu

    HIDDEN load_word
    HIDDEN load_word_at
    mov (%rdi), %rax
    mov %rax, (%rsi)
    xor %eax, %eax
    ret

    .section .note.GNU-stack,"",@progbits
