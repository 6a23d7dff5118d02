//! The records of PAX headers: `LENGTH KEY=VALUE\n`. May do no I/O.

/// What PAX records say of the next entry, as far as it is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) sparse: bool,
}

/// Reads records; an error is what is wrong with them.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, &'static str> {
    const WRONG: &str = "a PAX record is malformed";
    let mut records = Records::default();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or(WRONG)?;
        let length = decimal(bytes.get(..space).ok_or(WRONG)?).ok_or(WRONG)?;
        let length = usize::try_from(length).map_err(|_| WRONG)?;
        let record = bytes.get(space + 1..length).ok_or(WRONG)?;
        let record = record.strip_suffix(b"\n").ok_or(WRONG)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(WRONG)?;
        let key = record.get(..equals).ok_or(WRONG)?;
        let value = record.get(equals + 1..).ok_or(WRONG)?;
        match key {
            b"path" => records.path = Some(value.to_vec()),
            b"linkpath" => records.link = Some(value.to_vec()),
            b"size" => records.size = Some(decimal(value).ok_or(WRONG)?),
            _ if key.starts_with(b"GNU.sparse.") => records.sparse = true,
            _ => {}
        }
        bytes = bytes.get(length..).ok_or(WRONG)?;
    }
    Ok(records)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_give_path_link_and_size_and_skip_the_rest() {
        let records =
            parse(b"12 path=a/b\n30 mtime=1350244992.023960108\n14 linkpath=c\n11 size=12\n")
                .unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(records.link.as_deref(), Some(&b"c"[..]));
        assert_eq!(records.size, Some(12));
        assert!(!records.sparse);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"12 path=a"[..],
            b"x path=a\n",
            b"0 path=a\n",
            b"99999999999999999999 a=b\n",
            b"8 patha\n",
            b"11 size=1x\n",
            b" ",
            b"1 ",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
