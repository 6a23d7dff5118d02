//! One GPU: what of it is idle, and what part of it a pod asks for. Knows nothing of nodes or policies.
//!
//! A device is either shared by thousandths (*milli-GPU*; a whole GPU is 1000 of them) or cut into MIG instances. A
//! MIG device is eight memory slots; NVIDIA's MIG User Guide ("Supported MIG Profiles") fixes where an instance of each
//! profile may begin, and those starting slots are what [`MigProfile::starts`] knows. An instance counts as 125
//! milli-GPU per slot, so that both kinds add up.

use serde::{Deserialize, Serialize};

/// Thousandths in one whole device.
pub const WHOLE_MILLI: u16 = 1000;
/// Memory slots of a MIG device (MIG User Guide: 8 on every supported product; A30's four are two of ours each).
const MIG_SLOTS: u16 = 8;
/// Thousandths of a device that one memory slot stands for.
const SLOT_MILLI: u16 = WHOLE_MILLI / MIG_SLOTS;
/// Marks a device cut into MIG instances; the low eight bits then say which slots are taken.
const MIG_MODE: u16 = 0x8000;

/// How many of the low eight bits are set.
const fn slots_taken(state: u16) -> u16 {
    let mut left = state & 0xFF;
    let mut count = 0;
    while left != 0 {
        count += left & 1;
        left >>= 1;
    }
    count
}

/// How the devices of a node are handed out.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum DeviceMode {
    /// By thousandths, whole devices included.
    #[default]
    Shared,
    /// By MIG instances only.
    Partitioned,
}

/// What is idle of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device(u16);

impl Device {
    /// A device of which nothing is taken.
    #[must_use]
    pub const fn idle(mode: DeviceMode) -> Self {
        match mode {
            DeviceMode::Shared => Self(WHOLE_MILLI),
            DeviceMode::Partitioned => Self(MIG_MODE),
        }
    }

    /// Idle thousandths, 0–1000.
    #[must_use]
    pub const fn idle_milli(self) -> u16 {
        if self.0 & MIG_MODE == 0 {
            self.0
        } else {
            (MIG_SLOTS - slots_taken(self.0)) * SLOT_MILLI
        }
    }

    /// Whether one part of `shape` fits.
    #[must_use]
    pub fn fits(self, shape: Shape) -> bool {
        match shape {
            Shape::Nothing => true,
            Shape::Devices { milli, .. } => self.0 & MIG_MODE == 0 && self.0 >= milli,
            Shape::Partition(profile) => self.after_partition(profile).next().is_some(),
        }
    }

    /// Every state this device can be in once one part of `shape` is placed on it; empty if it does not fit.
    pub fn after(self, shape: Shape) -> impl Iterator<Item = Self> {
        let (share, profile) = match shape {
            Shape::Nothing => (None, None),
            Shape::Devices { milli, .. } => (Some(milli), None),
            Shape::Partition(profile) => (None, Some(profile)),
        };
        let shared = share
            .filter(|milli| self.0 & MIG_MODE == 0 && self.0 >= *milli)
            .map(|milli| Self(self.0 - milli));
        shared.into_iter().chain(
            profile
                .into_iter()
                .flat_map(move |profile| self.after_partition(profile)),
        )
    }

    fn after_partition(self, profile: MigProfile) -> impl Iterator<Item = Self> {
        let partitioned = self.0 & MIG_MODE != 0;
        profile
            .masks()
            .filter(move |mask| partitioned && self.0 & mask == 0)
            .map(move |mask| Self(self.0 | mask))
    }

    /// What `after`, made from `self` by one placement, took; `give_back` undoes it.
    #[must_use]
    pub const fn taken_by(self, after: Self) -> Taken {
        if self.0 & MIG_MODE == 0 {
            Taken(self.0.saturating_sub(after.0))
        } else {
            Taken(MIG_MODE | (after.0 & !self.0))
        }
    }

    /// The device once `taken` is returned; `None` if that much was never taken from it.
    #[must_use]
    pub const fn give_back(self, taken: Taken) -> Option<Self> {
        if self.0 & MIG_MODE == 0 {
            if taken.0 & MIG_MODE != 0 || self.0 + taken.0 > WHOLE_MILLI {
                return None;
            }
            return Some(Self(self.0 + taken.0));
        }
        let slots = taken.0 & 0xFF;
        if taken.0 & MIG_MODE == 0 || self.0 & slots != slots {
            return None;
        }
        Some(Self(self.0 & !slots))
    }
}

/// What one placement took of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Taken(u16);

impl Taken {
    /// Slots of a MIG device taken, one bit each; `None` on a shared device.
    #[must_use]
    pub fn slots(self) -> Option<u8> {
        (self.0 & MIG_MODE != 0).then(|| u8::try_from(self.0 & 0xFF).unwrap_or(0))
    }

    /// Thousandths taken, 0–1000.
    #[must_use]
    pub const fn milli(self) -> u16 {
        if self.0 & MIG_MODE == 0 {
            self.0
        } else {
            slots_taken(self.0) * SLOT_MILLI
        }
    }
}

/// A MIG profile on a device of known memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MigProfile {
    /// Compute slices, the `3g` of `3g.40gb`: 1, 2, 3, 4 or 7.
    pub compute: u8,
    /// Memory slots it fills: 1, 2, 4 or 8.
    pub slots: u8,
}

impl MigProfile {
    /// The profile named like `3g.40gb` on a device of `device_memory_mib`; `None` if no such profile exists there.
    ///
    /// The name's gigabytes are rounded figures, so the slots are those nearest to its share of the device.
    #[must_use]
    pub fn parse(name: &str, device_memory_mib: u64) -> Option<Self> {
        let (compute, memory) = name.split_once('.')?;
        let compute: u8 = compute.strip_suffix('g')?.parse().ok()?;
        let gigabytes: u64 = memory.strip_suffix("gb")?.parse().ok()?;
        let device_gigabytes = device_memory_mib.div_ceil(1024);
        let sixteenths = (2 * u64::from(MIG_SLOTS) * gigabytes).checked_div(device_gigabytes)?;
        let slots = u8::try_from(sixteenths.div_ceil(2)).ok()?;
        let slots = if sixteenths.is_multiple_of(2) {
            slots
        } else {
            slots.max(1)
        };
        let nearest = Self { compute, slots };
        (!nearest.starts().is_empty()).then_some(nearest)
    }

    /// Slots at which an instance may begin; empty for a profile that does not exist.
    #[must_use]
    pub const fn starts(self) -> &'static [u8] {
        match (self.compute, self.slots) {
            (1, 1) => &[0, 1, 2, 3, 4, 5, 6],
            (1, 2) => &[0, 2, 4, 6],
            (2, 2) => &[0, 2, 4],
            (2 | 3, 4) => &[0, 4],
            (4, 4) | (4 | 7, 8) => &[0],
            _ => &[],
        }
    }

    fn masks(self) -> impl Iterator<Item = u16> {
        let width = (1u16 << self.slots.min(8)) - 1;
        self.starts().iter().map(move |start| width << start)
    }
}

/// The GPU part of a request on one kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shape {
    /// No GPU.
    Nothing,
    /// `count` devices, `milli` thousandths of each.
    Devices {
        /// Devices, at least 1.
        count: u8,
        /// Thousandths of each, 1–1000.
        milli: u16,
    },
    /// One MIG instance.
    Partition(MigProfile),
}

impl Shape {
    /// Devices it touches.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Devices { count, .. } => count as usize,
            Self::Partition(_) => 1,
        }
    }

    /// Thousandths it takes in all.
    #[must_use]
    pub const fn total_milli(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Devices { count, milli } => count as u32 * milli as u32,
            Self::Partition(profile) => profile.slots as u32 * SLOT_MILLI as u32,
        }
    }
}
