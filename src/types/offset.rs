//! Offsets and cluster numbers of the guest (what the VM sees) and the host (inside a layer file).

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The plain number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
            /// Sum, or `None` on overflow.
            #[must_use]
            pub const fn checked_add(self, n: u64) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A byte offset in a virtual disk.
    GuestOffset
);
number!(
    /// A byte offset in a layer file.
    HostOffset
);
number!(
    /// A cluster number in a virtual disk.
    GuestCluster
);
number!(
    /// A cluster number in a layer file.
    HostCluster
);

/// The size of a cluster as a power of two (QCOW2 header field `cluster_bits`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterBits(u32);

impl ClusterBits {
    /// 64 KiB: the cluster size of every layer that we write, and of leaves.
    pub const LAYER: Self = Self(16);

    /// LIMIT: 9 (512 B) is the specification's minimum, 21 (2 MiB) is QEMU's maximum.
    #[must_use]
    pub const fn new(bits: u32) -> Option<Self> {
        if bits >= 9 && bits <= 21 {
            Some(Self(bits))
        } else {
            None
        }
    }
    /// The exponent.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
    /// Cluster size in bytes.
    #[must_use]
    pub const fn size_bytes(self) -> u64 {
        1 << self.0
    }
    /// Clusters that cover `bytes`, the last one perhaps in part.
    #[must_use]
    pub const fn clusters_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.size_bytes())
    }
    /// The cluster that holds `offset`.
    #[must_use]
    pub const fn guest_cluster(self, offset: GuestOffset) -> GuestCluster {
        GuestCluster(offset.0 >> self.0)
    }
    /// The host cluster that holds `offset`.
    #[must_use]
    pub const fn host_cluster(self, offset: HostOffset) -> HostCluster {
        HostCluster(offset.0 >> self.0)
    }
    /// Bytes of `offset` past the start of its cluster.
    #[must_use]
    pub const fn within(self, offset: u64) -> u64 {
        offset & (self.size_bytes() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterBits, GuestCluster, GuestOffset};

    #[test]
    fn conversions_round() {
        let bits = ClusterBits::LAYER;
        assert_eq!(bits.guest_cluster(GuestOffset(65_537)), GuestCluster(1));
        assert_eq!(bits.clusters_for(65_537), 2);
        assert_eq!(bits.within(65_537), 1);
        assert_eq!(ClusterBits::new(8), None);
        assert_eq!(ClusterBits::new(22), None);
    }
}
