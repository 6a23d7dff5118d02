//! Booleans as Go's flag library reads them.

/// Reads one of Go's twelve words for true and false.
///
/// # Errors
/// The reason in Go's words.
pub fn parse(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {text:?}: invalid syntax"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_the_words_of_go_are_booleans() {
        for word in ["1", "t", "T", "true", "True", "TRUE"] {
            assert_eq!(parse(word), Ok(true));
        }
        for word in ["0", "f", "F", "false", "False", "FALSE"] {
            assert_eq!(parse(word), Ok(false));
        }
        for word in ["", "yes", "tRUE", "2"] {
            assert!(parse(word).is_err(), "{word}");
        }
    }
}
