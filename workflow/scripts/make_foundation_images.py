"""Draw the training images of the embedded models."""

from histoprompt.foundation.images import make_foundation_images
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "make_foundation_images"):
        make_foundation_images(
            snakemake.output.tissue,
            snakemake.output.table,
            snakemake.output.textures,
            **snakemake.params.images,
            seed=snakemake.params.seed,
            pcam_root=snakemake.params.pcam_root,
            workers=snakemake.threads,
        )
