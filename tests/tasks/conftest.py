"""A tokenizer for tests: a token is a byte, and BOS (256) stands before a text."""

import pytest


class ByteTokenizer:
    chat_template = None

    def __call__(self, text, *, add_special_tokens=True):
        ids = [self.encode(t, add_special_tokens=add_special_tokens) for t in text]
        return {"input_ids": ids}

    def encode(self, text, *, add_special_tokens=True):
        return [256] * add_special_tokens + list(text.encode())

    def decode(self, token_ids):
        return bytes(token_ids).decode(errors="replace")


class ChatTokenizer(ByteTokenizer):
    chat_template = "a template"

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{m['role']}>{m['content']}" for m in conversation) + "<assistant>"


@pytest.fixture
def byte_tokenizer():
    return ByteTokenizer()


@pytest.fixture
def chat_tokenizer():
    return ChatTokenizer()
