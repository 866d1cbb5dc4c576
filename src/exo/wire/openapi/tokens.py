"""Tokens of a text and back: the first exo's route, and those that llama.cpp's server and vLLM have."""

from exo.wire import tokens
from exo.wire.openai.request_types import ChatBody
from exo.wire.openapi.operations import Json, as_json, asking, either

SCHEMAS: tuple[type, ...] = (
    tokens.TokenizeChatBody,
    tokens.TokenizeTextBody,
    tokens.DetokenizeBody,
    tokens.EncodedChat,
    tokens.TokenizeAnswer,
    tokens.DetokenizeAnswer,
)


def paths() -> Json:
    encode = asking("encode", "A conversation's tokens", ChatBody, as_json(tokens.EncodedChat))
    tokenize = asking("tokenize", "Tokens of a text", tokens.TokenizeTextBody, as_json(tokens.TokenizeAnswer))
    tokenize["requestBody"]["content"] = either(tokens.TokenizeChatBody, tokens.TokenizeTextBody)
    detokenize = asking(
        "detokenize", "The text of tokens", tokens.DetokenizeBody, as_json(tokens.DetokenizeAnswer)
    )
    return {
        "/v1/chat/token/encode": {"post": encode},
        "/tokenize": {"post": tokenize},
        "/detokenize": {"post": detokenize},
    }
