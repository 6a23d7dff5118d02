//! Addresses of simulated pods: unique, stable over a restart, and routed nowhere. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::cloud::simulated::draw;

/// First address: 10.128.0.0/9, a private range that no default of Kubernetes uses.
const BASE: u32 = 0x0a80_0000;
/// Addresses in the range.
const COUNT: u32 = 1 << 23;

/// Which pod has which address.
#[derive(Debug, Default)]
pub struct Addresses {
    by_address: BTreeMap<Ipv4Addr, String>,
    by_pod: BTreeMap<String, Ipv4Addr>,
}

impl Addresses {
    /// Records an address that a pod already has.
    pub fn claim(&mut self, pod_uid: &str, address: Ipv4Addr) {
        self.by_address.insert(address, pod_uid.to_owned());
        self.by_pod.insert(pod_uid.to_owned(), address);
    }

    /// The address of a pod: the one it has, else a free one.
    pub fn of(&mut self, pod_uid: &str) -> Ipv4Addr {
        if let Some(address) = self.by_pod.get(pod_uid) {
            return *address;
        }
        let start = u32::try_from(draw(0, pod_uid, "address") % u64::from(COUNT)).unwrap_or(0);
        let mut candidates = (0..COUNT).map(|step| Ipv4Addr::from(BASE + (start + step) % COUNT));
        let free = candidates.find(|address| !self.by_address.contains_key(address));
        // Eight million pods would have to run at once before the range is full.
        let address = free.unwrap_or(Ipv4Addr::from(BASE));
        self.claim(pod_uid, address);
        address
    }

    /// Frees the address of a pod that is gone.
    pub fn release(&mut self, pod_uid: &str) {
        if let Some(address) = self.by_pod.remove(pod_uid) {
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_stable_and_reusable() {
        let mut addresses = Addresses::default();
        let first = addresses.of("a");
        addresses.release("a");
        addresses.claim("other", first);
        assert_ne!(addresses.of("a"), first, "taken by another pod");
        assert_eq!(addresses.of("a"), addresses.of("a"));
        assert!(first.octets()[0] == 10 && first.octets()[1] >= 128);
    }
}
