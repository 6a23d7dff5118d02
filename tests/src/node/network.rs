//! Moving a thread into a node's network and back.
//!
//! What the thread opens or starts while it is there (sockets, child processes, further threads) belongs to that
//! network; its files and processes stay the host's.

use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};

/// A thread's stay in another network; it ends when this is dropped, on the same thread.
#[derive(Debug)]
pub(super) struct Stay {
    home: File,
    inode: u64,
    // Another thread's network is none of ours: not to be sent.
    _thread: PhantomData<*const ()>,
}

impl Stay {
    /// Moves the calling thread into the network of the process `pid`.
    pub(super) fn enter(pid: i32) -> io::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let network = File::open(format!("/proc/{pid}/ns/net"))?;
        let inode = network.metadata()?.ino();
        setns(&network, CloneFlags::CLONE_NEWNET)?;
        Ok(Self {
            home,
            inode,
            _thread: PhantomData,
        })
    }

    /// Inode of the network that the thread is in.
    pub(super) const fn inode(&self) -> u64 {
        self.inode
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.home, CloneFlags::CLONE_NEWNET) {
            let _ = writeln!(
                io::stderr(),
                "warning: cannot leave a node's network: {error}"
            );
        }
    }
}
