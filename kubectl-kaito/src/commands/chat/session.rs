//! A conversation on a terminal: questions, and commands that begin with `/`.

use tokio::io::{AsyncBufReadExt, BufReader};

use super::conversation::Conversation;
use super::exchange::Exchange;
use crate::Context;
use crate::error::{Exit, Failure};
use crate::output::printer::Tone;

const HELP: &str = "/undo            take back the last question and its answer
/clear           begin anew; instructions and parameters stay
/system TEXT     instructions from here on; none without TEXT
/adapter NAME    answer with this adapter; the base model without NAME
/params          show how answers are made
/help            this list
/quit            end, as Ctrl-D does";

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Question(&'a str),
    Undo,
    Clear,
    System(Option<&'a str>),
    Adapter(Option<&'a str>),
    Parameters,
    Help,
    Quit,
    Unknown(&'a str),
}

fn parse(line: &str) -> Input<'_> {
    let line = line.trim();
    if line.is_empty() {
        return Input::Nothing;
    }
    if !line.starts_with('/') {
        return Input::Question(line);
    }
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
    match command {
        "/undo" => Input::Undo,
        "/clear" => Input::Clear,
        "/system" => Input::System(rest),
        "/adapter" => Input::Adapter(rest),
        "/params" => Input::Parameters,
        "/help" | "/?" => Input::Help,
        "/quit" | "/exit" => Input::Quit,
        _ => Input::Unknown(command),
    }
}

/// Talks until the input ends.
pub(super) async fn run(
    exchange: &Exchange<'_>,
    mut conversation: Conversation,
    context: &Context,
) -> Result<Exit, Failure> {
    let printer = &context.printer;
    printer.note(&printer.paint_note("/help lists what may be typed; Ctrl-D ends.", Tone::Dim))?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        printer.data(&printer.paint("> ", Tone::Accent))?;
        printer.flush()?;
        let line = lines
            .next_line()
            .await
            .map_err(|error| Failure::error(format!("cannot read what is typed: {error}")))?;
        let Some(line) = line else {
            printer.line("")?;
            return Ok(Exit::Success);
        };
        match parse(&line) {
            Input::Quit => return Ok(Exit::Success),
            Input::Question(text) => ask(exchange, &mut conversation, text, context).await?,
            input => printer.note(&change(&mut conversation, &input))?,
        }
    }
}

/// Asks; a refused question is taken back, and the conversation goes on.
async fn ask(
    exchange: &Exchange<'_>,
    conversation: &mut Conversation,
    text: &str,
    context: &Context,
) -> Result<(), Failure> {
    conversation.ask(text.to_owned());
    match exchange.answer(conversation).await {
        Ok(answer) => conversation.answered(answer),
        Err(failure) if failure.exit == Exit::ClosedPipe => return Err(failure),
        Err(failure) => {
            conversation.undo();
            for line in failure.lines() {
                context.printer.note(line)?;
            }
        }
    }
    Ok(())
}

/// Carries out a command; what to say about it.
fn change(conversation: &mut Conversation, input: &Input<'_>) -> String {
    match input {
        Input::Undo if conversation.undo() => "The last question is taken back.".to_owned(),
        Input::Undo => "There is no question to take back.".to_owned(),
        Input::Clear => {
            conversation.clear();
            "The conversation begins anew.".to_owned()
        }
        Input::System(text) => {
            conversation.system = text.map(str::to_owned);
            "The instructions hold from the next question on.".to_owned()
        }
        Input::Adapter(name) => {
            conversation.parameters.model = name.map(str::to_owned);
            format!("Answers come from {}.", name.unwrap_or("the base model"))
        }
        Input::Parameters => {
            let made = &conversation.parameters;
            format!(
                "temperature {}, top-p {}, at most {} tokens, adapter {}",
                made.temperature,
                made.top_p,
                made.max_tokens,
                made.model.as_deref().unwrap_or("none")
            )
        }
        Input::Unknown(command) => format!("{command} is not known; /help lists what is."),
        Input::Help => HELP.to_owned(),
        Input::Nothing | Input::Question(_) | Input::Quit => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Input, change, parse};
    use crate::commands::chat::conversation::Conversation;
    use crate::commands::chat::conversation::tests::parameters;

    #[test]
    fn lines_are_questions_unless_they_begin_with_a_slash() {
        assert_eq!(parse("  "), Input::Nothing);
        assert_eq!(parse(" why? "), Input::Question("why?"));
        assert_eq!(parse("/system be brief "), Input::System(Some("be brief")));
        assert_eq!(parse("/adapter"), Input::Adapter(None));
        assert_eq!(parse("/nonsense x"), Input::Unknown("/nonsense"));
    }

    #[test]
    fn an_adapter_holds_until_it_is_taken_back() {
        let mut talk = Conversation::new(None, parameters());
        change(&mut talk, &Input::Adapter(Some("pirate")));
        assert_eq!(talk.request("phi")["model"], "pirate");
        change(&mut talk, &Input::Adapter(None));
        assert_eq!(talk.request("phi")["model"], "phi");
    }
}
