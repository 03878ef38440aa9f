//! A prompt as the messages of a chat, in the form that most providers give them.

use serde::Serialize;

use super::Call;

/// One message of a chat.
#[derive(Debug, Serialize)]
pub(super) struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

impl Call<'_> {
    /// The prompt, as the user's message.
    pub(super) fn user_message(&self) -> Message<'_> {
        Message { role: "user", content: self.prompt_text() }
    }

    /// The prompt, after what the operator tells the model.
    pub(super) fn messages(&self) -> Vec<Message<'_>> {
        let system = self.model.system.as_deref().map(|content| Message { role: "system", content });
        system.into_iter().chain([self.user_message()]).collect()
    }
}
