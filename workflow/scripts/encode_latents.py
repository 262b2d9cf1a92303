"""Encode the kept patches of the train and valid split once, for every arm."""

from histoprompt.job import job
from histoprompt.latents import encode_latents

if __name__ == "__main__":
    with job(snakemake.log[0], "encode_latents"):
        splits = zip(
            snakemake.input.patches, snakemake.input.kept, snakemake.output.latents, snakemake.output.rows, strict=True
        )
        for patches, kept, latents, rows in splits:
            encode_latents(
                patches,
                kept,
                latents,
                rows,
                model=snakemake.params.model,
                revision=snakemake.params.revision,
                resolution=snakemake.params.resolution,
                flip=snakemake.params.flip,
                batch_size=snakemake.params.batch_size,
                device=snakemake.params.device,
                threads=snakemake.threads,
            )
