"""Train a classifier on real images, an arm's, or both, and test it on real patches."""

from histoprompt.cards import own_cards
from histoprompt.classifier import train_classifier
from histoprompt.job import job

if __name__ == "__main__":
    with job(snakemake.log[0], "train_classifier"), own_cards(snakemake.resources.gpu):
        train_classifier(
            snakemake.input.images,
            snakemake.input.test,
            snakemake.output[0],
            mix=snakemake.wildcards.mix,
            size=snakemake.params.size,
            settings=snakemake.params.settings,
            seeds=snakemake.params.seeds,
            device=snakemake.params.device,
            threads=snakemake.threads,
        )
