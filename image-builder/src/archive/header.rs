//! The 512 bytes before each entry: ustar with GNU's numbers. May do no I/O.

use super::BLOCK;

/// The largest size that eleven octal digits hold, in bytes: 8 GiB less one.
pub(super) const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// Where a field begins and ends.
struct Field(usize, usize);

const NAME: Field = Field(0, 100);
const MODE: Field = Field(100, 108);
const UID: Field = Field(108, 116);
const GID: Field = Field(116, 124);
const SIZE: Field = Field(124, 136);
const MTIME: Field = Field(136, 148);
const CHECKSUM: Field = Field(148, 156);
const TYPE: usize = 156;
const LINK: Field = Field(157, 257);
const MAGIC: Field = Field(257, 265);
const DEVICE_MAJOR: Field = Field(329, 337);
const DEVICE_MINOR: Field = Field(337, 345);
const PREFIX: Field = Field(345, 500);

const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

/// Which rules a header follows: a prefix exists in ustar only, sizes in base 256 and long names in GNU's format only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Ustar,
    Gnu,
}

/// What a header says. Texts are bytes: nothing is decoded here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) kind: u8,
    pub(super) link: Vec<u8>,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadHeader(pub(super) &'static str);

/// Writes a header whose name fits: at most 100 bytes, or split at a `/` into prefix and name. A link's target fits, too,
/// or is cut.
pub(super) fn write(format: Format, header: &Header) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let Header {
        name,
        mode,
        size,
        kind,
        link,
    } = header;
    let (mode, size, kind) = (*mode, *size, *kind);
    let (prefix, short) = split_name(name).unwrap_or((b"", name));
    put(&mut block, &NAME, short);
    put_octal(&mut block, &MODE, u64::from(mode));
    put_octal(&mut block, &UID, 0);
    put_octal(&mut block, &GID, 0);
    if size > MAX_OCTAL_SIZE {
        put_base256(&mut block, &SIZE, size);
    } else {
        put_octal(&mut block, &SIZE, size);
    }
    put_octal(&mut block, &MTIME, super::MTIME);
    put(&mut block, &CHECKSUM, b"        ");
    if let Some(byte) = block.get_mut(TYPE) {
        *byte = kind;
    }
    put(&mut block, &LINK, link);
    let magic = match format {
        Format::Ustar => USTAR,
        Format::Gnu => GNU,
    };
    put(&mut block, &MAGIC, magic);
    put_octal(&mut block, &DEVICE_MAJOR, 0);
    put_octal(&mut block, &DEVICE_MINOR, 0);
    put(&mut block, &PREFIX, prefix);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    put(&mut block, &CHECKSUM, text.as_bytes());
    block
}

/// Whether a header holds a link's target.
pub(super) const fn holds_link(target: &[u8]) -> bool {
    target.len() <= LINK.1 - LINK.0
}

/// The format in which one header holds a name and a size, if there is one.
pub(super) fn format(name: &[u8], size: u64) -> Option<Format> {
    match (name.len() <= 100, size <= MAX_OCTAL_SIZE) {
        (true, true) => Some(Format::Ustar),
        (true, false) => Some(Format::Gnu),
        (false, true) => split_name(name).map(|_| Format::Ustar),
        (false, false) => None,
    }
}

/// Splits a long name into at most 155 and at most 100 bytes at a `/`. Short names are not split.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return None;
    }
    name.iter().enumerate().find_map(|(at, byte)| {
        let rest = name.get(at + 1..)?;
        (*byte == b'/' && at <= 155 && at > 0 && !rest.is_empty() && rest.len() <= 100)
            .then_some((name.get(..at)?, rest))
    })
}

fn put(block: &mut [u8; BLOCK], field: &Field, bytes: &[u8]) {
    if let Some(target) = block.get_mut(field.0..field.1) {
        target.fill(0);
        for (to, from) in target.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

fn put_octal(block: &mut [u8; BLOCK], field: &Field, value: u64) {
    let digits = field.1 - field.0 - 1;
    put(block, field, format!("{value:0digits$o}").as_bytes());
}

fn put_base256(block: &mut [u8; BLOCK], field: &Field, value: u64) {
    let mut bytes = [0; 12];
    let (_, low) = bytes.split_at_mut(4);
    low.copy_from_slice(&value.to_be_bytes());
    if let Some(first) = bytes.first_mut() {
        *first = 0x80;
    }
    put(block, field, &bytes);
}

/// Reads a header; `None` for a block of zeros.
pub(super) fn read(block: &[u8]) -> Result<Option<Header>, BadHeader> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    check_sum(block)?;
    let kind = block.get(TYPE).copied().unwrap_or_default();
    let mut name = text(block, &NAME).to_vec();
    let prefix = text(block, &PREFIX);
    if bytes(block, &MAGIC) == USTAR && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    Ok(Some(Header {
        name,
        mode: u32::try_from(number(block, &MODE)? & 0o7777).unwrap_or_default(),
        size: number(block, &SIZE)?,
        kind,
        link: text(block, &LINK).to_vec(),
    }))
}

fn check_sum(block: &[u8]) -> Result<(), BadHeader> {
    let expected = number(block, &CHECKSUM)?;
    let counted = |at: usize, byte: u8| {
        if (CHECKSUM.0..CHECKSUM.1).contains(&at) {
            b' '
        } else {
            byte
        }
    };
    let unsigned: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(counted(at, *byte)))
        .sum();
    // Old programs summed signed bytes.
    let signed: i64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| i64::from(counted(at, *byte).cast_signed()))
        .sum();
    if expected == unsigned || i64::try_from(expected) == Ok(signed) {
        Ok(())
    } else {
        Err(BadHeader("the header's checksum is wrong"))
    }
}

fn bytes<'a>(block: &'a [u8], field: &Field) -> &'a [u8] {
    block.get(field.0..field.1).unwrap_or_default()
}

fn text<'a>(block: &'a [u8], field: &Field) -> &'a [u8] {
    let field = bytes(block, field);
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn number(block: &[u8], field: &Field) -> Result<u64, BadHeader> {
    let field = bytes(block, field);
    match field.split_first() {
        Some((0x80, rest)) => rest.iter().try_fold(0_u64, |value, byte| {
            if value >> 56 == 0 {
                Ok(value << 8 | u64::from(*byte))
            } else {
                Err(BadHeader("a number in the header is too large"))
            }
        }),
        Some((first, _)) if *first > 0x80 => Err(BadHeader("a number in the header is negative")),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Result<u64, BadHeader> {
    let mut digits = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ')
        .take_while(|byte| *byte != b' ' && *byte != 0);
    digits.try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | u64::from(digit - b'0')),
        _ => Err(BadHeader("a number in the header is not octal")),
    })
}
