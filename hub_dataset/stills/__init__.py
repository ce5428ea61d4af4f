"""Pictures with expressions become clips of one frame, or of a drawn camera path over them."""
