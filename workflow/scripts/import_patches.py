"""Import one split of the user's patches."""

from histoprompt.importing import import_patches
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "import_patches"):
        import_patches(
            snakemake.output.patches,
            snakemake.output.table,
            source=snakemake.params.source,
            root=snakemake.params.root,
            split=snakemake.wildcards.split,
            patch_size=snakemake.params.patch_size,
            classes=snakemake.params.classes,
            holdout=snakemake.params.holdout,
            seed=snakemake.params.seed,
        )
