"""Those of the store: its rows of `MESSAGES`."""

from __future__ import annotations

STORE: dict[str, str | tuple[str, str]] = {
    "some-and-more": ("{text} and {n} more", "{text} and {n} more"),
    "interrupted": "The server ended while this run was live; its records up to then are kept.",
    "records-lost": "Damaged in the file and left out: {what}.",
    "lost-steps": ("{count} of {n} step", "{count} of {n} steps"),
    "lost-columns": ("{count} of {n} column of layers", "{count} of {n} columns of layers"),
    "lost-others": ("{n} test or sample", "{n} tests and samples"),
    "row-id": "no id",
    "row-recipe": "unknown settings",
    "row-status": "unknown status {status}",
    "row-created": "no time of creation",
    "row-steps": "no number of steps",
    "row-other-id": "the settings of another run",
    "store-unreadable": "This version cannot read {n} of the kept runs and leaves them in the file as they are: {which}.",
    "store-gaps": (
        "Records of {n} kept run are damaged in the file and left out: {which}.",
        "Records of {n} kept runs are damaged in the file and left out: {which}.",
    ),
    "store-unusable": "The file of runs {name} cannot be used: {why}.",
    "store-folder-unusable": "The folder {folder} cannot hold the runs: {why}.",
    "store-in-use": (
        "The folder {folder} is in use by another gradviz server: stop that one, or set GRADVIZ_STORE to another folder."
    ),
    "store-none": "No runs are kept in the folder {folder}.",
    "store-newer": (
        "The file of runs {name} was written by a newer gradviz: update this one, or set GRADVIZ_STORE to another folder."
    ),
    "store-lock-no-file": "{name}, by which a server claims its folder, is no file: remove it.",
    "store-reading-only": (
        "The file of runs {name} can be read, but not written: {why}. What is recorded is kept in memory until it can."
    ),
    "store-shut": "The file of runs {name} could not be opened again.",
    "store-folder-gone": "The folder of runs {folder} is gone: what is recorded is kept in memory until it is back.",
    "store-replaced": (
        "The file {name} in the folder of runs {folder} was replaced by another one: what is recorded is kept in memory until "
        "that one is opened."
    ),
    "store-removed": (
        "The file {name} was removed from the folder of runs {folder}: what is recorded is kept in memory until a new one is "
        "begun."
    ),
    "store-log-damaged": (
        "The log of the file of runs was damaged and is kept as {aside}: {bad} of the {all} pages last written could not be "
        "read, and a second of records that lay there may be missing."
    ),
    "store-log-removed": "The log of the file of runs {name} was removed while the server ran; what was in it is kept.",
    "store-written-anew": (
        "The file of runs {name} was removed while the server ran; it was written anew, with its {n} run.",
        "The file of runs {name} was removed while the server ran; it was written anew, with its {n} runs.",
    ),
    "store-begun-anew": (
        "The file of runs {name} was removed while the server ran, and could not be read any more: {why}. A new one was begun."
    ),
    "store-salvaged": (
        "The file of runs was damaged and is kept as {aside}. {whole} of its runs were saved whole, {gaps} with gaps where "
        "records could not be read, and {lost} could not be saved."
    ),
    "store-list-damaged": "The list of runs in it was damaged too: there may have been more.",
    "store-met-damaged": (
        "The file of runs was met damaged while the server ran and was opened anew; there is {n} run in it, and what is in "
        "memory is written into it.",
        "The file of runs was met damaged while the server ran and was opened anew; there are {n} runs in it, and what is in "
        "memory is written into it.",
    ),
    "store-other-opened": (
        "The file of runs {name} was replaced by another one while the server ran; {n} run that the other one did not have "
        "was brought over.",
        "The file of runs {name} was replaced by another one while the server ran; {n} runs that the other one did not have "
        "were brought over.",
    ),
    "sqlite-busy": "another program holds it locked",
    "sqlite-readonly": "it may not be written",
    "sqlite-full": "the disk is full",
    "state-no-memory": "the memory is full",
    "sqlite-cantopen": "it cannot be opened or made",
    "sqlite-ioerr": "reading or writing the disk failed",
    "sqlite-corrupt": "it is damaged",
    "sqlite-notadb": "it is not a database",
    # states of trainings
    "state-gone": "The state from which it was to go on is not kept any more, so it was trained again from the start.",
    "branch-same": "That is how it is at step {step} already: choose another value, else the branch would be the same run.",
    "state-not-kept": "The state of its net was not kept ({why}): to go on from there, it would be trained again from the start.",
    "state-too-large": "its {size:,.0f} MB are more than GRADVIZ_MAX_STATES leaves for one, {most:,.0f} MB",
}
