/* Where the library is entered: at the start, by up-calls, by the application's calls that need the library's stack.
 *
 * An up-call finds its arguments in registers and, from rsp upwards, the words those registers held (the last
 * argument's lowest) and a frame for iretq.  Only registers that C may change are saved; the handler gets the frame
 * as its fourth argument.  The bit in `active` is cleared as late as possible: from then on the next up-call of the
 * kind may come, and finds this one's last few words above it on the stack.  A handler that ends outside critical
 * sections and finds the processor wanted goes on as if it had been asked only now; so does a page fault that must wait
 * for a page which is on its way already (its handler gives 1).
 *
 * Three instructions touch memory that may just have been taken; the page-fault handler recognises them and goes on at
 * their second ending.
 */
#include <exo.h>
#include <startup.h>
#include "threads.h"

    .text

    .macro UPCALL name, handler, number, arguments
    HIDDEN \name
    .if \arguments < 2
    push %rsi
    .endif
    .if \arguments < 3
    push %rdx
    .endif
    push %rax
    push %rcx
    push %r8
    push %r9
    push %r10
    push %r11
    push %rbp
    lea 80(%rsp), %rcx
    mov %rsp, %rbp
    and $-16, %rsp
    call \handler
    mov %rbp, %rsp
    pop %rbp
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rcx
    movabs $OWN_ACTIVE, %rdx
    andq $~(1 << \number), %gs:(%rdx)
    .if \number == EXO_UPCALL_PAGE_FAULT
    test %eax, %eax
    jnz 3f
    .endif
    cmpq $0, %gs:OWN_CPU_WANTED - OWN_ACTIVE(%rdx)
    jne 2f
1:  pop %rax
    pop %rdx
    pop %rsi
    pop %rdi
    iretq
2:  cmpq $0, %gs:OWN_CRITICAL - OWN_ACTIVE(%rdx)
    jne 1b
3:  pop %rax
    pop %rdx
    pop %rsi
    jmp entry_please_release_cpu
    .size \name, . - \name
    .endm

#define ENTRY(name, NUMBER) UPCALL entry_##name, handle_##name, NUMBER, NUMBER##_ARGUMENTS

    ENTRY(page_fault, EXO_UPCALL_PAGE_FAULT)
    ENTRY(please_release_page, EXO_UPCALL_PLEASE_RELEASE_PAGE)
    ENTRY(pages_taken, EXO_UPCALL_PAGES_TAKEN)
    ENTRY(trap, EXO_UPCALL_TRAP)
    ENTRY(event, EXO_UPCALL_EVENT)

/* The loader starts the program here, on the library's stack, with the start block's address in rdi.  The application
 * gets a stack pointer that is a multiple of 16 and its arguments in rdi. */
    .globl libos_start
    .type libos_start, @function
libos_start:
    call library_begin
    mov start(%rip), %rax
    mov START_STACK_TOP(%rax), %rsp
    mov START_ARGUMENTS(%rax), %rdi
    jmp *START_ENTRY(%rax)
    .size libos_start, . - libos_start

/* Calls a function with up to three arguments on the library's stack, which nothing else uses while the application
 * runs; an up-call that comes meanwhile is delivered below. */
    HIDDEN on_library_stack
    push %rbx
    mov %rsp, %rbx
    lea processors(%rip), %rax
    mov %gs:PROCESSOR_STACK_TOP(%rax), %rsp
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    call *%rax
    mov %rbx, %rsp
    pop %rbx
    movabs $OWN_CPU_WANTED, %rcx
    cmpq $0, %gs:(%rcx)
    jne 1f
    ret
1:  cmpq $0, %gs:OWN_CRITICAL - OWN_CPU_WANTED(%rcx)
    jne 2f
    push %rax
    call honour
    pop %rax
2:  ret
    .size on_library_stack, . - on_library_stack

/* The child begins at fork_entry with the parent's stack pointer as its argument, and takes from the copy of the
 * parent's stack what os_fork has left there. */
    .globl os_fork
    .type os_fork, @function
os_fork:
    PUSH_PRESERVED
    sub $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    lea fork_environment(%rip), %rdi
    mov %rsp, %rsi
    call on_library_stack
    jmp 1f

    HIDDEN fork_entry
    push %rdi
    call fork_begin
    pop %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    xor %eax, %eax
1:  add $8, %rsp
    POP_PRESERVED
    ret
    .size os_fork, . - os_fork

    HIDDEN load_entry
    HIDDEN load_entry_at
    mov (%rdi), %rax
    ret
    HIDDEN absent_entry
    xor %eax, %eax
    ret

    HIDDEN zero_words
    mov %rsi, %rcx
    xor %eax, %eax
    HIDDEN zero_words_at
    rep stosq
    ret

    HIDDEN copy_words
    mov %rdx, %rcx
    xor %eax, %eax
    HIDDEN copy_words_at
    rep movsq
    ret
    HIDDEN absent_page
    mov $-1, %eax
    ret

/* The compiler may call these even in freestanding code. */
    HIDDEN memset
    mov %rdi, %r8
    mov %esi, %eax
    mov %rdx, %rcx
    rep stosb
    mov %r8, %rax
    ret

    HIDDEN memcpy
    mov %rdi, %rax
    mov %rdx, %rcx
    rep movsb
    ret

    .section .note.GNU-stack,"",@progbits
