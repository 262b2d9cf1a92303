"""Send real patches to the generator's resolution and back: what resampling alone does to them."""

from histoprompt.job import job
from histoprompt.latents import resample_patches

if __name__ == "__main__":
    with job(snakemake.log[0], "resample_patches"):
        resample_patches(
            snakemake.input[0],
            snakemake.output.images,
            snakemake.output.native,
            resolution=snakemake.params.resolution,
            batch_size=snakemake.params.batch_size,
            threads=snakemake.threads,
        )
