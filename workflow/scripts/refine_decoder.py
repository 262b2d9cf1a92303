"""Train the decoder of the embedded autoencoder once more."""

from histoprompt.foundation.autoencoder import refine_decoder
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "refine_decoder"):
        refine_decoder(
            snakemake.input.tissue,
            snakemake.input.table,
            snakemake.input.textures,
            snakemake.input.autoencoder,
            snakemake.output.model,
            snakemake.output.report,
            **snakemake.params.settings,
        )
