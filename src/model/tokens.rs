//! Texts as tokens: bytes, or the pieces of a tokenizer.

use super::Model;
use super::spec::Tokens;
use crate::error::Error;

/// Turns texts into tokens and back.
#[derive(Debug)]
pub struct Tokenizer {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bytes,
    #[cfg(feature = "tokenizers")]
    Pieces(Box<pieces::Pieces>),
}

impl Tokenizer {
    /// The tokenizer of a model.
    ///
    /// # Errors
    /// [`Error::File`] if the model needs `tokenizer.json` and has none that fits, or if this build reads no tokenizers.
    pub fn of(model: &Model) -> Result<Self, Error> {
        match model.spec().tokens {
            Tokens::Bytes => Ok(Self { kind: Kind::Bytes }),
            Tokens::Tokenizer => {
                let path = model.folder().join("tokenizer.json");
                if !path.is_file() {
                    let message = "is needed to turn a text into tokens, and is not there; a file with the tensor `tokens` runs without";
                    return Err(Error::file(path, message.to_owned()));
                }
                #[cfg(feature = "tokenizers")]
                return Ok(Self { kind: Kind::Pieces(Box::new(pieces::Pieces::open(&path, model.spec().vocab)?)) });
                #[cfg(not(feature = "tokenizers"))]
                Err(Error::file(
                    path,
                    "cannot be read: this build was made without the feature `tokenizers`".to_owned(),
                ))
            }
        }
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tokenizer refuses the text.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Error> {
        match &self.kind {
            Kind::Bytes => Ok(text.iter().map(|byte| u32::from(*byte)).collect()),
            #[cfg(feature = "tokenizers")]
            Kind::Pieces(pieces) => pieces.encode(text),
        }
    }

    /// The bytes that tokens add to the text of those before them. Alone they may mean another text: many tokenizers drop a
    /// leading space.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tokenizer does not know a token.
    pub fn decode_after(&self, before: &[u32], added: &[u32]) -> Result<Vec<u8>, Error> {
        // A few tokens are enough, and keep this short.
        let before = &before[before.len().saturating_sub(4)..];
        let [start, mut all] = [self.decode(before)?, self.decode(&[before, added].concat())?];
        // A character that the tokens before began but did not end is not there yet.
        let common = start.iter().zip(&all).take_while(|(x, y)| x == y).count();
        Ok(all.split_off(common))
    }

    /// The bytes of a text of which these are the tokens. A token that is no byte is left out.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tokenizer does not know a token.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>, Error> {
        match &self.kind {
            Kind::Bytes => Ok(tokens.iter().filter_map(|token| u8::try_from(*token).ok()).collect()),
            #[cfg(feature = "tokenizers")]
            Kind::Pieces(pieces) => pieces.decode(tokens),
        }
    }
}

#[cfg(feature = "tokenizers")]
mod pieces {
    use std::path::Path;

    use crate::error::Error;

    /// A tokenizer in the form of Hugging Face.
    #[derive(Debug)]
    pub(super) struct Pieces(tokenizers::Tokenizer);

    impl Pieces {
        pub(super) fn open(path: &Path, vocab: usize) -> Result<Self, Error> {
            let wrong = |message: String| Error::file(path.to_path_buf(), message);
            let found = tokenizers::Tokenizer::from_file(path)
                .map_err(|e| wrong(format!("expected a tokenizer, found {e}")))?;
            let most = found.get_vocab(true).into_values().max().unwrap_or(0) as usize;
            if most >= vocab {
                return Err(wrong(format!("expected tokens below the vocabulary of {vocab}, found {most}")));
            }
            Ok(Self(found))
        }

        pub(super) fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Error> {
            let wrong = |found: String| Error::tensor("tokenizer", "text", "text in UTF-8", found);
            let text = std::str::from_utf8(text).map_err(|e| wrong(e.to_string()))?;
            Ok(self.0.encode(text, true).map_err(|e| wrong(e.to_string()))?.get_ids().to_vec())
        }

        pub(super) fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>, Error> {
            let text = self.0.decode(tokens, true);
            text.map(String::into_bytes)
                .map_err(|e| Error::tensor("tokenizer", "tokens", "known tokens", e.to_string()))
        }
    }
}
