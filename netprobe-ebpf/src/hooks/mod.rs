//! Attach points, one a file. Each header says what is measured, why here, what it costs and from which kernel on.

mod accept_exit;
mod connect_exit;
mod conntrack_confirm;
mod destroy_sock;
mod net_dev_queue;
mod receive_exit;
mod receive_reset;
mod recv_length;
mod retransmit;
mod send_exit;
mod send_length;
mod send_reset;
mod set_state;
mod sys_exit;
mod udp_address;
