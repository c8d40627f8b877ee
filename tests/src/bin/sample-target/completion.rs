//! The chat completion API: what a request asks for, and the JSON of its answers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

/// The only model there is; a request may name any.
pub(crate) const MODEL: &str = "sample";

/// How fast and how long answers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Tokens of an answer.
    pub(crate) tokens: u32,
    /// Time between two tokens.
    pub(crate) interval: Duration,
    /// Extra time before the token in the middle.
    pub(crate) quiet_gap: Duration,
}

impl Pace {
    /// The silence before token `index`.
    pub(crate) fn pause_before(&self, index: u32) -> Duration {
        let gap = if index == self.tokens / 2 { self.quiet_gap } else { Duration::ZERO };
        let interval = if index == 0 { Duration::ZERO } else { self.interval };
        interval + gap
    }

    /// The time of a whole answer.
    pub(crate) fn total(&self) -> Duration {
        (0..self.tokens).map(|index| self.pause_before(index)).sum()
    }
}

/// The fields of a request that matter here; clients send more.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    messages: Vec<Value>,
    #[serde(default)]
    pub(crate) stream: bool,
    #[serde(default)]
    stream_options: StreamOptions,
    #[serde(default, alias = "max_completion_tokens")]
    max_tokens: Option<u32>,
    /// Not of OpenAI's: the silence in the middle of this answer, like "5s".
    #[serde(default)]
    quiet_gap: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// One answer: its identity, its text token by token, and its JSON in both forms.
#[derive(Debug)]
pub(crate) struct Completion {
    id: String,
    created: u64,
    model: String,
    served_by: String,
    prompt_tokens: usize,
    include_usage: bool,
    /// How it is delivered.
    pub(crate) pace: Pace,
}

impl Completion {
    /// The answer of target `served_by` to `request`; an error says which field is wrong.
    pub(crate) fn new(serial: u64, served_by: &str, request: Request, pace: Pace) -> Result<Self, String> {
        if request.messages.is_empty() {
            return Err("messages: at least one message is required".to_owned());
        }
        let quiet_gap = match request.quiet_gap {
            None => pace.quiet_gap,
            Some(text) => humantime::parse_duration(&text).map_err(|error| format!("quiet_gap: {error}"))?,
        };
        let prompt_tokens = request.messages.iter().map(words).sum();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self {
            id: format!("chatcmpl-{served_by}-{serial}"),
            created,
            model: request.model.unwrap_or_else(|| MODEL.to_owned()),
            served_by: served_by.to_owned(),
            prompt_tokens,
            include_usage: request.stream_options.include_usage,
            pace: Pace { tokens: request.max_tokens.unwrap_or(pace.tokens), quiet_gap, ..pace },
        })
    }

    /// The text of token `index`: the target's name first.
    pub(crate) fn token(&self, index: u32) -> String {
        match index {
            0 => format!("{}:", self.served_by),
            _ => format!(" token-{index}"),
        }
    }

    /// The answer in one piece.
    pub(crate) fn whole(&self) -> Value {
        let content: String = (0..self.pace.tokens).map(|index| self.token(index)).collect();
        json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": self.usage(),
        })
    }

    /// The event that opens a stream.
    pub(crate) fn opening(&self) -> Value {
        self.chunk(json!([choice(json!({"role": "assistant", "content": ""}), None)]))
    }

    /// The event of token `index`.
    pub(crate) fn delta(&self, index: u32) -> Value {
        self.chunk(json!([choice(json!({"content": self.token(index)}), None)]))
    }

    /// The events that end a stream: the finish, and the usage where the request asks for it.
    pub(crate) fn closing(&self) -> Vec<Value> {
        let mut events = vec![self.chunk(json!([choice(json!({}), Some("stop"))]))];
        if self.include_usage {
            let mut usage = self.chunk(json!([]));
            usage["usage"] = self.usage();
            events.push(usage);
        }
        events
    }

    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        let completion_tokens = self.pace.tokens as usize;
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        })
    }
}

fn choice(delta: Value, finish_reason: Option<&str>) -> Value {
    json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason})
}

fn words(message: &Value) -> usize {
    message["content"].as_str().map_or(0, |content| content.split_whitespace().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { tokens: 4, interval: Duration::from_millis(10), quiet_gap: Duration::from_millis(500) };

    fn completion(request: Value) -> Result<Completion, String> {
        Completion::new(1, "gpu-1", serde_json::from_value(request).unwrap(), PACE)
    }

    #[test]
    fn the_gap_lies_in_the_middle() {
        let pauses: Vec<u128> = (0..4).map(|index| PACE.pause_before(index).as_millis()).collect();
        assert_eq!(pauses, [0, 10, 510, 10]);
        assert_eq!(PACE.total().as_millis(), 530);
    }

    #[test]
    fn an_answer_names_its_target_and_counts_tokens() {
        let answer = completion(json!({"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 2}));
        let whole = answer.unwrap().whole();
        assert_eq!(whole["choices"][0]["message"]["content"], "gpu-1: token-1");
        assert_eq!(whole["usage"]["total_tokens"], 5);
    }

    #[test]
    fn bad_fields_are_named() {
        assert!(completion(json!({})).unwrap_err().starts_with("messages:"));
        let gap = json!({"messages": [{}], "quiet_gap": "soon"});
        assert!(completion(gap).unwrap_err().starts_with("quiet_gap:"));
    }
}
