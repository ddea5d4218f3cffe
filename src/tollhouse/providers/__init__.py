"""The AI providers: one adapter a file for their wire formats, and the transport that carries them."""
