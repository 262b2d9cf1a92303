from snakemake.utils import min_version

min_version("9.0")


# One file is one study: a study file given with --configfile takes nothing from the default one.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/morphology.smk"
include: "workflow/rules/generator.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/reader_study.smk"
include: "workflow/rules/explorer.smk"
include: "workflow/rules/more.smk"
include: "workflow/rules/foundation.smk"


rule all:
    input:
        study_results(),


rule estimate:
    input:
        collect("results/{study}/cost.md", study=STUDY),


rule replicate:
    input:
        collect("results/{study}/replicates.{form}", study=STUDY, form=["csv", "md"]),


rule ablations:
    input:
        collect("results/{study}/ablations/{ablation}.{form}", study=STUDY, ablation=ABLATIONS, form=["csv", "md", "png"]),
        collect("results/{study}/{file}", study=STUDY, file=table_of_descriptors(all_arms(config))),


rule coverage_map:
    input:
        collect(
            "results/{study}/{file}",
            study=STUDY,
            file=["coverage_map.csv", "regions.csv", "figures/coverage_map.png", "figures/regions.png"],
        ),


rule explorer:
    input:
        collect("results/{study}/explorer/index.html", study=STUDY),


rule learning_curve:
    input:
        collect(
            "results/{study}/{file}",
            study=STUDY,
            file=["learning_curve.csv", "learning_curve.md", "figures/learning_curve.png"],
        ),


rule foundation:
    input:
        "results/foundation/models",


localrules:
    all,
    estimate,
    replicate,
    ablations,
    coverage_map,
    explorer,
    learning_curve,
    foundation,


onstart:
    begin()


onsuccess:
    print(closing_words())


# Snakemake has no hook for it.
atexit.register(words_of_dry_run)


onerror:
    print(how_to_go_on(log))
