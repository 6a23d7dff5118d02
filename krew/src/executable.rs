//! Tells which platform an executable file is for, by its header.
//!
//! Pure. Guards against an archive whose name says one platform and whose binary is for another:
//! krew would install it and the user would get `exec format error`.

use crate::platform::Platform;

/// The platform of an ELF, Mach-O (64 bit) or PE file; `None` for anything else, and for
/// architectures that krew does not know. Every ELF file counts as Linux.
pub(crate) fn platform_of(binary: &[u8]) -> Option<Platform> {
    let text = match binary.get(..4)? {
        b"\x7fELF" => format!("linux/{}", elf_architecture(binary)?),
        b"\xcf\xfa\xed\xfe" => format!("darwin/{}", mach_o_architecture(binary)?),
        [b'M', b'Z', ..] => format!("windows/{}", pe_architecture(binary)?),
        _ => return None,
    };
    text.parse().ok()
}

/// `e_machine` of the ELF header. Source: System V ABI, chapter 4; little endian throughout.
fn elf_architecture(binary: &[u8]) -> Option<&'static str> {
    match read_u16(binary, 18)? {
        3 => Some("386"),
        21 => Some("ppc64le"),
        40 => Some("arm"),
        62 => Some("amd64"),
        183 => Some("arm64"),
        _ => None,
    }
}

/// `cputype` of the Mach-O header. Source: Apple's `mach/machine.h`.
fn mach_o_architecture(binary: &[u8]) -> Option<&'static str> {
    match read_u32(binary, 4)? {
        0x0100_0007 => Some("amd64"),
        0x0100_000c => Some("arm64"),
        _ => None,
    }
}

/// `Machine` of the COFF header, which the DOS header points to. Source: Microsoft's PE format.
fn pe_architecture(binary: &[u8]) -> Option<&'static str> {
    let header = usize::try_from(read_u32(binary, 0x3c)?).ok()?;
    if binary.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    match read_u16(binary, header.checked_add(4)?)? {
        0x014c => Some("386"),
        0x8664 => Some("amd64"),
        0xaa64 => Some("arm64"),
        _ => None,
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

/// Headers for tests: the start of an executable of `platform`, and nothing behind it.
#[cfg(test)]
pub(crate) fn sample(platform: Platform) -> Vec<u8> {
    let mut bytes = vec![0; 0x80];
    let machine: u16 = match (platform.os(), platform.arch()) {
        ("linux", "386") => 3,
        ("linux", "ppc64le") => 21,
        ("linux", "arm") => 40,
        ("linux", "amd64") => 62,
        ("linux", "arm64") => 183,
        ("windows", "386") => 0x014c,
        ("windows", "amd64") => 0x8664,
        ("windows", "arm64") => 0xaa64,
        ("darwin", "amd64") => 0x07,
        ("darwin", "arm64") => 0x0c,
        _ => 0,
    };
    match platform.os() {
        "linux" => {
            bytes[..4].copy_from_slice(b"\x7fELF");
            bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        }
        "windows" => {
            bytes[..2].copy_from_slice(b"MZ");
            bytes[0x3c] = 0x40;
            bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
            bytes[0x44..0x46].copy_from_slice(&machine.to_le_bytes());
        }
        _ => {
            bytes[..4].copy_from_slice(b"\xcf\xfa\xed\xfe");
            bytes[4..6].copy_from_slice(&machine.to_le_bytes());
            bytes[7] = 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::KNOWN;

    #[test]
    fn headers_of_every_platform_are_recognised() {
        // 32-bit Mach-O is the one pair whose files this does not read: macOS 10.15 dropped them.
        for platform in KNOWN
            .into_iter()
            .filter(|platform| platform.to_string() != "darwin/386")
        {
            assert_eq!(platform_of(&sample(platform)), Some(platform));
        }
    }

    #[test]
    fn the_running_test_is_for_the_host() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(platform_of(&own), Platform::host().ok());
    }

    #[test]
    fn scripts_and_truncated_headers_are_not_executables() {
        for bytes in [
            &b""[..],
            b"#!/bin/sh\n",
            b"\x7fELF",
            b"MZ\0\0",
            b"\xcf\xfa\xed\xfe\x07",
        ] {
            assert_eq!(platform_of(bytes), None);
        }
    }
}
