//! Attach points, one a file. Each header says what is measured, why here, what it costs and from which kernel on.

mod accept_exit;
mod connect_exit;
pub mod connect_return;
mod conntrack_confirm;
mod destroy_sock;
mod make_cookie;
mod net_dev_queue;
mod packet;
mod receive_exit;
mod receive_reset;
mod recv_length;
mod retransmit;
mod send_exit;
mod send_length;
mod send_reset;
pub mod set_state;
mod ssl;
mod sys_exit;
mod udp_address;

/// Loads the word at a byte offset of a program's context. The offset is part of the instruction: where it depends on
/// the kernel, the compiler would otherwise choose between pointers first, and kernels before 6.13 or so refuse a changed
/// context pointer.
macro_rules! fexit_word {
    ($ctx:expr, $offset:literal) => {{
        let word: u64;
        // SAFETY: arguments and return value of the traced function are words in the context; the verifier checks
        // that this one exists.
        unsafe {
            core::arch::asm!(
                concat!("{word} = *(u64 *)({ctx} + ", stringify!($offset), ")"),
                word = out(reg) word,
                ctx = in(reg) aya_ebpf::EbpfContext::as_ptr(&$ctx),
            );
        }
        word
    }};
}
pub(crate) use fexit_word;
