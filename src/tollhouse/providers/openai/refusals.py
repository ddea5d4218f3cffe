"""Which of OpenAI's errors are the operator's to mend, although they come under a caller's status."""

from tollhouse.providers.refusals import VendorError


def is_operators(error: VendorError) -> bool:
    """Tell whether an error is about the model or the account that the operator configured."""
    return "model_not_found" in error.codes
