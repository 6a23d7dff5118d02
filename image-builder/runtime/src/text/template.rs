//! Conversations to prompts, by the model's own Jinja template.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::Error;

/// Instructions that a template may take for one conversation.
const FUEL: u64 = 5_000_000;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A compiled template, with the texts of the tokens that it may name.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Template`] if it is not valid.
    pub fn new(text: String, begin: String, end: String) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(whitespace()?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |why: String| -> Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
            },
        );
        environment
            .add_template_owned("chat", text)
            .map_err(|e| Error::Template(format!("{e:#}")))?;
        Ok(Self {
            environment,
            begin,
            end,
        })
    }

    /// The prompt that makes the model answer.
    ///
    /// # Errors
    /// [`Error::Render`] with the template's own words, if it refuses the messages.
    pub fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let failed = |e: minijinja::Error| {
            Error::Render(e.detail().map_or_else(|| e.to_string(), str::to_owned))
        };
        let template = self.environment.get_template("chat").map_err(failed)?;
        let turn = |message: &Message| {
            let (role, content) = (message.role.as_str(), message.content.as_str());
            Value::from_pairs([("role", role), ("content", content)])
        };
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        template
            .render(context! {
                messages => turns,
                add_generation_prompt => true,
                bos_token => self.begin.as_str(),
                eos_token => self.end.as_str(),
            })
            .map_err(failed)
    }
}

/// Blocks take no line of their own, as transformers has it.
fn whitespace() -> Result<SyntaxConfig, Error> {
    let mut syntax = SyntaxConfig::builder();
    let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
    syntax.map_err(|e| Error::Template(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Message {
        Message {
            role: "user".to_owned(),
            content: content.to_owned(),
        }
    }

    fn rendered(template: &str, messages: &[Message]) -> Result<String, Error> {
        Template::new(template.to_owned(), "<s>".to_owned(), "</s>".to_owned())?.render(messages)
    }

    #[test]
    fn turns_are_written_as_the_template_says() {
        let template = "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m.content.strip() }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}";
        let text = rendered(template, &[user("  hello ")]).unwrap();
        assert_eq!(text, "<s><|user|>\nhello</s>\n<|assistant|>\n");
    }

    #[test]
    fn a_refusal_comes_in_the_words_of_the_template() {
        let error = rendered(
            "{{ raise_exception('roles must alternate') }}",
            &[user("x")],
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("roles must alternate")
        );
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(matches!(rendered(endless, &[]), Err(Error::Render(_))));
    }

    #[test]
    fn what_is_no_template_is_told() {
        assert!(matches!(
            rendered("{% for %}", &[]),
            Err(Error::Template(_))
        ));
    }
}
