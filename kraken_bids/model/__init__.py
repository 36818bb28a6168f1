# SPDX-License-Identifier: MIT
"""The Krakencoder: transforms, encoders, one latent space, decoders; the only home of torch."""
