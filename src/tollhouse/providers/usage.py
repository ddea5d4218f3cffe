"""What an attempt used, in tokens."""

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one attempt in disjoint classes: each token is in one of them, so that it is priced once."""

    input_tokens: int = 0
    """Input read in full: neither from a cache nor into one, and neither sound nor picture where those are counted."""
    cached_input_tokens: int = 0
    """Input read from the provider's prompt cache, of whatever kind."""
    cache_write_tokens: int = 0
    """Input written into the provider's prompt cache with its default lifetime (five minutes)."""
    cache_write_1h_tokens: int = 0
    """Input written into the provider's prompt cache for an hour."""
    output_tokens: int = 0
    """Output the caller sees, but for sound and pictures where those are counted."""
    reasoning_tokens: int = 0
    """Output the model spent on thinking."""
    audio_input_tokens: int = 0
    """Sound that was read in full."""
    image_input_tokens: int = 0
    """Pictures that were read in full, where the provider counts them apart."""
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    web_searches: int = 0
    """Uses of the provider's own search tool, which are billed by use; no tokens, and in no total of tokens."""

    @property
    def all_input_tokens(self) -> int:
        """Input of every class."""
        return (
            self.input_tokens
            + self.cached_input_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
        )

    @property
    def total_tokens(self) -> int:
        return (
            self.all_input_tokens
            + self.output_tokens
            + self.reasoning_tokens
            + self.audio_output_tokens
            + self.image_output_tokens
        )
