"""Every sentence that is kept, sent or compared as a code: the one table of `messages`. A row is added under its room."""

from __future__ import annotations

from gradviz.sentences.store import STORE

# Code -> sentence with {arguments}, in English; two sentences where the number {n} decides, for one and for more.
MESSAGES: dict[str, str | tuple[str, str]] = {
    "text": "{text}",  # words that came from elsewhere: the system's, a library's, those of runs kept before there were codes
    "sentences": "{first} {second}",
    # training
    "loss-not-finite": "The loss is {loss} at step {step}; inf or nan first appears in {layer}.",
    "loss-alone-not-finite": "The loss is {loss} at step {step}; all layers are still finite.",
    "no-device": "Device (device) {device} is not on this machine; it has {have}.",
    "batch-too-large": (
        "Batch size (batch_size) must be at most {images}, the training images of this data set; {size} is not."
    ),
    "both": "{first}, {second}",
    "stopped-early": "Stopped as soon as it counted as trained.",
    # serve: what is refused, and why something waits
    "limit-blocks": "This server takes runs of at most {most:,} blocks, not {asked:,}: choose a smaller number.",
    "limit-steps": "This server takes runs of at most {most:,} steps, not {asked:,}: choose a smaller number.",
    "limit-batch_size": "This server takes runs of at most {most:,} images per step, not {asked:,}: choose a smaller number.",
    "limit-disk": "The {most} GB for runs are used up: delete runs first.",
    "limit-memory": "This run needs some {needed:,.0f} MB of memory, and the server has {left:,.0f} MB left: "
    "choose fewer blocks or a smaller batch, or stop paused runs.",
    "limit-runs": "This server keeps {most:,} runs, and these are all of today: delete some first.",
    "limit-unsaved": "The runs that cannot be written have used up the memory for them: {reason}",
    "queue-full": "Too many runs wait already ({most}): wait until some have ended.",
    "queue-yours": (
        "{n} run of yours waits already: wait until it has ended, or stop it.",
        "{n} runs of yours wait already: wait until some have ended, or stop some.",
    ),
    "queue-network": (
        "{n} run from your network waits already: wait until it has ended.",
        "{n} runs from your network wait already: wait until some have ended.",
    ),
    "sweeps-yours": "You have {count} sweeps and lessons going on: wait for one, or stop one.",
    "desk-full": "The server is busy: {count} wishes like this one wait already. Try again in {seconds} s.",
    "desk-slow": "The server is busy with other people's wishes. Try again in {seconds} s.",
    "little-memory": "The server has too little memory left for this now: {left:,.0f} MB, where this takes some {need:,.0f} MB "
    "and {reserve:,.0f} MB stay free. Try again in a while.",
    "sweep-turn": "It waits for its turn: a lesson, or another sweep of the same person or of others, goes before.",
    "sweep-paused": "Its runs are paused by the teacher.",
    "sweep-worker": "Its runs wait for a worker: lessons and what people look at in the Lab go first.",
    # serve: how a training ended
    "queue-cleared": "The teacher has cleared the queue, and what was paused. What it recorded is kept.",
    "pause-memory": "While it was paused, its memory was needed for another run: the training was given up. What it recorded is "
    "kept; Start afresh trains it anew.",
    "pause-long": "Paused for {minutes:.0f} minutes, the training was given up, so that others have its memory. What it recorded "
    "is kept; Start afresh trains it anew.",
    "afresh-short": "Started afresh, it ended after {steps} steps ({status:word}): what was recorded before is kept.",
    "short-processes": "The limit of processes and threads of this server was met: let fewer trainings run at once, or raise it.",
    "short-files": "The limit of open files and connections of this server was met: raise it (ulimit -n), or try again later.",
    "short-disk": "The server's disk is full: delete runs first.",
    "short-memory": "The memory does not suffice for this net: choose fewer blocks or a smaller batch.",
    "own-error": "The training met an error of its own ({kind}); the server's log has the details.",
    "preview-dropped": "Another preview was asked for meanwhile.",
    "no-process": "No worker process could be started: {reason}",
    "process-silent": "The training's process has not answered for {seconds:.0f} s and used no processor time ({state:word}); it "
    "was ended. The run can be started afresh.",
    "process-rubbish": "The training's process sent what is no record, and was ended.",
    "process-memory": "The training's process was ended by the system because memory ran out: choose fewer blocks or a smaller "
    "batch.",
    "process-mute": "The training's process ended without a word; the server's log may say more.",
    "process-signal": "The training's process was ended by signal {number} ({name}).",
    "process-not-memory": "The system has not counted it as a want of memory.",
    "process-exit": "The training's process ended itself with exit code {number}; the server's log has the details.",
    # serve: what is kept
    "not-deleted": "The run was not deleted: {reason}",
    "not-kept-yet": "In memory, but not kept yet: {live} runs that go on and {ended} that have ended.",
    "sweep-unkept": "The sweep goes on, but would not survive a restart: {reason}.",
    "sweep-back": "The sweep is removed, but would be back after a restart: {reason}.",
    "sweeps-unreadable": (
        "{n} kept sweep could not be read and is left as it is: {which}.",
        "{n} kept sweeps could not be read and are left as they are: {which}.",
    ),
    "class-unkept": "Names and the teacher's choices would not survive a restart: {reason}.",
    "class-unreadable": "The file of names and of the teacher's choices could not be read; it is kept as {name}.",
    # pages: what a button answers
    "run-gone": "This run is no longer here.",
    "locked": "The teacher has locked the controls: nobody can start or change runs now.",
    "teacher-only": "Only the teacher may do that.",
    "other-live": "This run is somebody else's: you can watch it or join it. Only those who asked for it, and the teacher, can "
    "stop, pause or step it.",
    "other-ended": "This run is somebody else's: only those who asked for it, and the teacher, can start it afresh. With another "
    "seed it is a run of your own.",
    "run-shared": "Others have asked for this run too: it can be paused once they have left it.",
    "run-left": "You have left this run; it goes on for the others who asked for it.",
    "runs-of-others": "These runs are somebody else's: only those who asked for them, and the teacher, can stop them.",
    "runs-left": "You have left these runs; they go on for the others who asked for them.",
    "sweep-of-others": "A sweep is removed by the one who asked for it, or by the teacher.",
    "pin-off": "Teacher mode is off on this server.",
    "pin-wait": ("Too many wrong PINs. Try again in {n} second.", "Too many wrong PINs. Try again in {n} seconds."),
    "pin-network": "Too many PINs are being tried from your network. Let this browser take cookies, reload the page and try "
    "again.",
    "pin-wrong": "This is not the PIN.",
    # settings of the server
    "range-two": "{first} or {other}",
    "server-setting": "{name} must be {range}, not {given!r}.",
    "server-home": "{name} names the home of a user who is not there: {given!r}.",
    "server-linux": "GRADVIZ_TRAIN_IN must be thread here: trainings in processes of their own need Linux.",
    "server-pin": "GRADVIZ_PIN must have 4 to 64 characters.",
    "server-hosts": "GRADVIZ_HOSTS must be names such as school.example or *.school.example, with commas between them and "
    "without port, not {given!r}.",
    "server-ingest": "GRADVIZ_INGEST_TOKEN must have 16 to 200 characters, letters, figures and signs without spaces.",
    # serve: runs that are brought from other machines
    "inbox-off": "This server takes no runs from other machines: whoever runs it sets GRADVIZ_INGEST_TOKEN for that.",
    "inbox-token": "This address takes watched runs from whoever has this server's GRADVIZ_INGEST_TOKEN.",
    "inbox-id": "This is no id of a watched run.",
    "inbox-numbers": "A part of a run comes with its offset and its length, and is as long as it says.",
    "inbox-content": "What was sent is not kept: {reason:clause}.",
    "inbox-other": "What was sent is not kept: its first line is not the one that was announced.",
    "inbox-another": "What was sent is not kept: the run of this id is another's.",
    "inbox-part": "A part of a run may have {most} MB at most.",
    "inbox-large": "A watched run may have {most} MB at most on this server.",
    "inbox-runs": "This server keeps {most} files of watched runs, and has as many: delete some first.",
    "inbox-disk": "The server cannot write the run: {reason}.",
    # settings of a net
    "range-choices": "one of {words}",
    "range-switch": "on or off",
    "range-whole": "a whole number from {low} to {high}",
    "range-number": "a number from {low} to {high}",
    "range-optional": "{range}, or default",
    "setting-range": "{label:word} ({name}) must be {range}; {given!r} is not.",
    "default-used": "{problem} The default is used.",
    "no-such-value": "{name} cannot be {given!r}.",
    "given-twice": "{label:word} ({name}) is given more than once ({words}). The last one is used.",
    "no-setting": "{given!r} is not a setting; the settings are {settings}.",
    "sweep-axes": "A sweep varies one or two of {axes}.",
    "sweep-no-value": "{field:word} needs one value or more.",
    "sweep-too-many": "A sweep has at most {most} runs; these are {count}. Take fewer points or seeds.",
    "no-setting-but": "{given!r} is not a setting, and is left out; did you mean {meant:choice}?",
    # data sets
    "data-absent": "{title:word} is not in the data folder {folder}: {found:list}.",
    "data-part": "{title:word} is not in the data folder {folder} ({have} of its {all} files are there): {found:list}.",
    "data-has-no": "{place} has no {missing}",
    "data-none-inside": "no train-images-idx3-ubyte, packed or not, in it or in the folders inside",
    "data-file-no-folder": "there is a file of this name, and no folder",
    "data-no-such-folder": "that folder does not exist",
    "data-not-idx": "{file} is not taken for a file in the IDX format",
    "data-no-file": "{file} is no file",
    "data-link-to-nothing": "{file} is a link to nothing",
    "data-leads-nowhere": "{file} leads nowhere ({why})",
    "data-damaged": "The files of {title:word} are damaged or mixed up: {what} Put a whole file in its place, or take it away.",
    "data-forbidden": "{title:word} may not be read: {what} "
    "Let its owner give the right to read it (and to enter it, if a folder).",
    "data-closed": "{file} is closed to the user that gradviz runs as.",
    "data-gone": "{file} is gone.",
    "data-unreadable": "{file} cannot be read ({why}).",
    "data-unequal": "{images} holds {pictures:,} images, and {labels} {answers:,} labels.",
    "data-label": "{labels} holds the label {label} (number {place:,}); labels are 0 to 9.",
    "data-pictures-of": "{images} holds the pictures of {other:word}.",
    "data-swapped": "{train} and {test} have each other's content.",
    "idx-not-unpacked": "{file} cannot be unpacked: it is cut short or damaged.",
    "idx-empty": "{file} is empty.",
    "idx-cut": "{file} is cut short: it has {have:,} of {need:,} bytes.",
    "idx-ends-in-header": "{file} is cut short: it ends in its header.",
    "idx-goes-on": "{file} goes on after its end.",
    "idx-other-format": "{file} is not in the IDX format: it begins with {start}.",
    "idx-no-bytes": "{file} holds {kind:word}, and not bytes.",
    "idx-holds": "{file} holds {held} where {wanted} should be.",
    "idx-labels": "labels",
    "idx-images": "images",
    "idx-of-dimension": "{n}-dimensional numbers",
    "idx-size": "{file} has images of {rows} × {columns} pixels, and not 28 × 28.",
    "idx-count": "{file} says that it holds {count:,} of them; it may be 1 to {most:,}.",
    "data-other": "{why} Using {title:word} instead: {what:word}",
    "download-begun": "Downloading {title:word} …",
    "download": "Downloading {title:word} … {share:.0%}",
    "download-off": "Downloads are switched off.",
    "download-failed": "{title:word} could not be downloaded: {problem:clause}. "
    "It is tried again once {seconds:.0f} s have passed.",
    "download-certificate": "the certificate of the server was refused (a wrong clock, or a network that opens encrypted "
    "connections and whose certificate this machine does not know)",
    "download-disk-full": "the disk is full",
    "download-no-name": "its server is not found (no network, or no name service)",
    "download-proxy": "the proxy refused the connection",
    "download-no-network": "the network does not reach it",
    "download-silent": "the connection is silent",
    "download-other-content": "what came is not the data set (the sign-in page of a network, perhaps)",
    "download-server-error": "its server answered with an error",
    "download-no-folder": "the data folder {folder} cannot be written ({why})",
    # what the outcome of a run means
    "means-trained": "mean training loss of the last {steps} steps under {below:.2f}: chance ({chance:.2f}) − {margin:g}",
    "means-started": "not trained, but under {below:.2f} (chance − {margin:g}) when the steps were used up",
    "means-stuck": "still at {above:.2f} or above when the steps were used up",
    "means-diverged": "loss not finite, or at {above:.0f} (ten times chance) or above at the end",
    "means-short": "meant to have fewer than {steps} steps: only its gradients are asked for",
    "means-unfinished": "not run, or not to its end",
    "means-failed": "the program could not run it",
    "means-learnt": "mean training accuracy of {steps} steps reached {reached:.0%}, which answers whether the net trains: "
    "the run was stopped there, but for those with a test accuracy, which went to their end",
    "means-under-way": "not learnt, but the mean loss of {steps} steps was under {below:.2f} (chance − {margin:g}) at the end",
    "means-at-chance": "mean loss still at {above:.2f} or above after all {steps:,} steps",
    "means-dead": "stopped after a whole epoch ({steps} steps) in which one layer handed on exact zeros for every image: nothing "
    "passes it forward, so the answer is the same for all images, and no gradient passes it back, so nothing below it can change",
    "means-not-finite": "the loss was no longer finite",
    # runs of the article's length
    "kept-no-file": "{path} is no file.",
    "kept-unreadable": "{path} cannot be read ({why}).",
    "kept-unwritable": "{path} cannot be written ({why}).",
    "kept-other-version": "Line {line} of {path} is not a run of this version ({why}): move the file away or mend that line.",
    "kept-need-mnist": "The runs of the article's length need MNIST: {why}",
    "other-data-set": "{name} is another data set",
    # web: what the live element asks amiss
    "wire-no-step": "No step is recorded yet.",
    "wire-step": "step must be from 0 to {last}.",
    "wire-quantity": "quantity must be one of {names}.",
    "wire-range": "low and high must be one of the ranges {ranges:list}.",
    "wire-ends": "{low:g} to {high:g}",
    "wire-whole": "{name} must be a whole number of 0 or more.",
    "wire-number": "{name} must be a number.",
    "wire-seen": "seen must be what the last answer said.",
    # diagnosis: the sentence
    "waits": "Waiting for the first step.",
    "never-began": "No step was recorded.",
    "no-gradient": "No layer's gradient was measured.",
    "diverged": "Diverged: at step {step} the loss is {loss:number}; inf or nan first appears in {layer}.",
    "diverged-in-loss": "Diverged: at step {step} the loss is {loss:number}, while every layer is still finite.",
    "dead": "Dead relu layers: {layer} hands on exactly 0 for every input, so no gradient passes it; {loss}.",
    "vanished": "Vanished to exact zero: in {count} of the {all} layers, up to {last}, every gradient entry "
    "is 0 in float32, while {back} has {g_back:number}; {loss}.",
    "exploding-signal": "Exploding: on its way back from {back} to {front} the signal grows {growth:ratio}-fold "
    "({s_back:number} to {s_front:number}); {loss}.",
    "exploding-gradient": "Exploding: the gradient of {front} is {ratio:ratio} times that of {back} "
    "({g_front:number} against {g_back:number}); {loss}.",
    "exploding-loss": "Exploding: {loss}, and the largest weight gradient is {size:number}.",
    "recovering-gradient": "Recovering: the gradient of {front} has grown {growth:ratio}-fold since step 0 "
    "({g_start:number} to {g_front:number}); {loss}.",
    "recovering-signal": "Recovering: on its way back from {back} to {front} the signal grew {before:ratio}-fold at step 0 "
    "and now grows {growth:ratio}-fold; {loss}.",
    "recovering-loss": "Recovering: the loss began at {before:loss}; now {loss}.",
    "vanishing": "Vanishing: the gradient of {front} is {ratio:ratio} of {back}'s "
    "({g_front:number} against {g_back:number}); {loss}.",
    "saturated": "Saturated sigmoids: {count} of the {all} layers hand on an rms above {split} or below {off} "
    "(0.5 is the middle), and {loss}.",
    "unusable": "The optimiser cannot use this gradient: {front} has {g_front:number}, and {pace}; {loss}.",
    "stuck": "Stuck at chance: after {step} steps {loss}, although the gradient does reach {front} "
    "({g_front:number} against {g_back:number} in {back}).",
    "healthy": "Healthy: {front} gets a gradient of {g_front:number}, {back} {g_back:number}, and {loss}.",
    "healthy-so-far": "Healthy so far: {front} gets a gradient of {g_front:number}, {back} {g_back:number}; {loss}.",
    "loss-untold": "the loss was not told",
    "loss-since": "the loss is {loss:loss}, and was {start:loss} at step {step}",
    "loss-down": "the loss is down to {loss:loss} (chance is {chance:.2f})",
    "loss-at-chance": "the loss stands at chance, {loss:loss}",
    "loss-above-chance": "the loss is {loss:loss}, above chance ({chance:.2f})",
    "pace": "at this pace it needs {steps:ratio} steps to change its weights by their own size",
    "pace-none": "a step does not change its float32 weights at all",
    "layer-and-more": ("{layer} (and {n} more)", "{layer} (and {n} more)"),  # alike in English alone
    # diagnosis: what was measured
    "measured-gradient": "Weight gradient (rms): {a:number} in {front}, {b:number} in {back}.",
    "measured-gradient-ratio": "Weight gradient (rms): {a:number} in {front}, {b:number} in {back}; ratio {ratio:ratio}.",
    "measured-signal": "Backward signal (rms): {b:number} at {back}, {a:number} at {front}.",
    "measured-factor": "A line through its log gives a factor of {factor:.3g} per layer.",
    "measured-loss": "Loss: {loss:loss}, mean of steps {first} to {last}.",
    "measured-loss-chance": "Loss: {loss:loss}, mean of steps {first} to {last}; a guess has {chance:.3f}.",
    "measured-test": "Test accuracy {share:.0%} at step {step}.",
    "measured-update": "Update: a step changes the weights of {front} by {a:number} of their size, those of {back} by "
    "{b:number}.",
    "measured-update-front": "Update: a step changes the weights of {front} by {a:number} of their size.",
    "measured-no-update": "Update: a step does not change a single float32 weight of {front}.",
    "measured-treatment": "Treatment: {treatment} turns the {a:number} of {front} into {b:number} before the step.",
    "measured-adam": "Adam: {g:number} against its eps of {eps:number1} leaves g/(g + eps) = {share:number} of a full step.",
    "measured-zeros": (
        "Exact zeros: every gradient entry of {n} layer is 0; the next, {alive}, has {g:number}.",
        "Exact zeros: every gradient entry of {n} layers is 0; the next, {alive}, has {g:number}.",
    ),
    "measured-zeros-all": (
        "Exact zeros: every gradient entry of {n} layer is 0.",
        "Exact zeros: every gradient entry of {n} layers is 0.",
    ),
    "measured-dead": "Dead: {layer} hands on exactly 0 for every input.",
    "measured-silent": "Silent: {layer} hands on exactly 0 for every input.",
    "measured-saturation": (
        "Saturation: {n} layer hands on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
        "Saturation: {n} layers hand on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
    ),
    "measured-activation": "Activation (rms): {a:number} in {front}, {b:number} in {back}, {c:number} in {last}.",
    # diagnosis: when it turned
    "turn-nonfinite": "The first inf or nan.",
    "turn-vanishes": "The gradient begins to vanish: more than 1000-fold from {back} to {front}.",
    "turn-vanishes-no-longer": "The gradient no longer vanishes: less than 1000-fold from {back} to {front}.",
    "turn-explodes": "The signal begins to explode: more than 1000-fold from {back} to {front}.",
    "turn-explodes-no-longer": "The signal no longer explodes: less than 1000-fold from {back} to {front}.",
    "turn-zero": "The gradient of {front} is exactly 0.",
    "turn-zero-no-longer": "The gradient of {front} is no longer exactly 0.",
    "turn-grown": "The gradient of {front} is ten times what it was at step 0.",
    "turn-falls": "The loss falls below ten times chance.",
    "turn-leaves-chance": "The loss leaves chance.",
    "turn-loud": "The loss passes ten times chance.",
    "turn-dead": "{layer} is dead: it hands on exactly 0.",
    "turn-alive": "{layer} is alive again.",
    # diagnosis, in the words of a deep LeNet
    "lenet-dead": "Dead relu layers: {layer} hands on exactly 0 for every image, so no gradient passes it; {loss}.",
    "lenet-vanished": "Vanished to exact zero: in {count} of the {all} block convolutions, up to {last}, every gradient entry "
    "is 0 in float32, while {back} has {g_back:number}; {loss}.",
    "lenet-saturated": "Saturated sigmoids: {count} of the {all} block convolutions hand on an rms above {split} or below {off} "
    "(0.5 is the middle), and {loss}.",
    "lenet-measured-factor": "A line through its log gives a factor of {factor:.3g} per convolution.",
    "lenet-measured-loss-chance": "Loss: {loss:loss}, mean of steps {first} to {last}; a guess among ten classes has "
    "{chance:.3f}.",
    "lenet-measured-zeros": (
        "Exact zeros: every gradient entry of {n} block convolution is 0; the next, {alive}, has {g:number}.",
        "Exact zeros: every gradient entry of {n} block convolutions is 0; the next, {alive}, has {g:number}.",
    ),
    "lenet-measured-dead": "Dead: {layer} hands on exactly 0 for every image.",
    "lenet-measured-saturation": (
        "Saturation: {n} block convolution hands on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
        "Saturation: {n} block convolutions hand on an rms from {low:number} to {high:number}, where 0.5 is the middle.",
    ),
    "lenet-measured-activation": "Activation (rms): {a:number} in {front}, {b:number} in {back}, {c:number} in the logits.",
    "lenet-turn-vanishes": "The gradient begins to vanish: more than 1000-fold from the last block to the first.",
    "lenet-turn-vanishes-no-longer": "The gradient no longer vanishes: less than 1000-fold from the last block to the first.",
    "lenet-turn-explodes": "The signal begins to explode: more than 1000-fold from the last block to the first.",
    "lenet-turn-explodes-no-longer": "The signal no longer explodes: less than 1000-fold from the last block to the first.",
    # lenet: what is likely the cause
    "cause-printed-border": "Sigmoids are never negative, so the zero padding prints the same border on every map. Batch norm "
    "divides by a spread that is mostly this border, and what tells two images apart shrinks by about {factor} per convolution.",
    "cause-product": "The factors of {count} convolutions multiply, and each is under 1.",
    "cause-product-sigmoid": "The factors of {count} convolutions multiply; a sigmoid's slope is at most 1/4.",
    "cause-product-tanh": "The factors of {count} convolutions multiply; tanh's slope is 1 at 0, so it is the small weights that "
    "shrink.",
    "cause-product-relu": "The factors of {count} convolutions multiply; relu blocks about half of the signal, and small weights "
    "do the rest.",
    "cause-default-factor": "Theory expects a factor of {factor} per convolution from PyTorch's own init, ±{init}.",
    "cause-under-critical": "Weights from ±{init:g} are under the critical ±{critical:.3g}, at which the signal would keep its "
    "size.",
    "cause-images-alike": "Forward, what tells two images apart shrinks by the same factor: to about {left:ratio} of the "
    "activations, and float32 resolves 10⁻⁷, so the last blocks see the same map for every image.",
    "cause-floor": "The floor gives small gradients a size, but of their direction only the signs remain, and it does nothing "
    "for the forward pass.",
    "cause-training-vanishes": "At step 0 the gradient did not vanish; training brought it, and theory speaks of step 0 only.",
    "cause-underflow": "The true gradient is not 0: it lies under {smallest:number}, the smallest float32 number.",
    "cause-underflow-line": "The line through the layers that are not 0 leads to {true:ratio} in {front}.",
    "cause-over-critical": "Weights from ±{init:g} are over the critical ±{critical:.3g}: each convolution enlarges the "
    "activations forward and the signal backward. The weight gradient is a product of the two and looks flat over depth.",
    "cause-shortcut-adds": "Relu is never negative, so every block adds in the same direction, and the sum grows by a constant "
    "factor per block: 1.07 under PyTorch's own init.",
    "cause-head-init": "The three layers of the head start from ±{init:g} as well, and make huge logits of ordinary "
    "activations.",
    "cause-norm-explodes": "Batch norm divides each layer by its spread; backward that multiplies the signal, by about {factor} "
    "per convolution, whatever the init.",
    "cause-at-start": "It began at initialisation, before any step.",
    "cause-steps-too-large": "The net started quietly, so it is the steps: the learning rate of {lr:number} is too large for it.",
    "cause-dead": "Steps too large for this net pushed every unit of a relu layer below 0. A unit that is off for all images "
    "has gradient 0 and has no way back.",
    "cause-saturated-at-start": "Weights from ±{init:g} push the sigmoids to 0 or 1; for an input of ±4 the slope is 0.018, not "
    "0.25.",
    "cause-saturated-by-training": "Training pushed the sigmoids to 0 or 1: the head asks for another mean, and the last blocks "
    "can give it sooner than they can tell images apart.",
    "cause-zero-moves-nothing": "A gradient of 0 moves nothing, whatever the optimiser.",
    "cause-under-eps": "Adam divides by the gradient's size plus its eps of {eps:number1}; a gradient under eps no longer "
    "counts.",
    "cause-square-overflows": "Adam keeps an average of squares; the square of this gradient is inf in float32, and a step is 0.",
    "cause-sgd-share": "SGD moves a weight by learning rate × gradient, and {front} gets {ratio:ratio} of the gradient of "
    "{back}.",
    "cause-steps-too-small": "The gradient is large enough; the learning rate of {lr:number} is too small for it.",
    "cause-forward-lost": "The treatment gives the signal a size on its way back; what the forward pass has lost it cannot give "
    "back.",
    "cause-stuck": "The gradient arrives, so its direction is of no use or the step has the wrong size: too large and the net "
    "jumps about, too small and it does not move, or the forward pass has lost the image.",
    "cause-adam-grows": "Adam gives small gradients steps of normal size; the weights grow, and larger weights pass more of the "
    "signal.",
    "cause-steered": "The treatment holds the signal at an rms of {target:number} on its way back.",
    "cause-skip-init": "SkipInit starts every branch at 0: its convolutions get a gradient once its scale has moved.",
    "cause-shortcut": "The shortcut hands the signal past the convolutions, with a factor of exactly 1.",
    "cause-norm": "Batch norm rescales every layer; theory expects a factor of {factor} per convolution at step 0.",
    "cause-critical": "The init range is close to the critical ±{critical:.3g}.",
    "cause-few-convolutions": "There are too few convolutions, {count}, for their factors to add up to much.",
    # lenet: what to try next
    "try-critical": "Start from the critical init range.",
    "try-default-init": "Start from PyTorch's own init.",
    "try-norm": "Add batch norm: it rescales what each layer hands on.",
    "try-norm-on-shortcut": "Add batch norm: it undoes the growth along the shortcut.",
    "try-shortcut": "Add the shortcut: a road for the gradient past the convolutions.",
    "try-without-floor": "Leave out the floor: it overwrites the small gradients of a cured net too.",
    "try-adam": "Let Adam divide each gradient by its own size.",
    "try-faster": "Take steps ten times as large.",
    "try-slower": "Take steps of a tenth of the size.",
    "try-longer": "Give it three times the steps.",
    "try-deeper": "It trains. Does it still with {blocks} blocks?",
    # record: why a file is no run of a watched net
    "spool-other": "it is no run of a watched net, or one of another version",
    "spool-quantities": "it holds none of the quantities that this version measures",
    "spool-head": "its first line does not say how it is kept",
    "spool-recipe": "its first line does not say which net it is of",
    "spool-layers": "it has more than {most} layers",
    "spool-columns": "its columns and its steps do not fit together",
    "spool-frames": "a part of it does not fit to what came before",
    "spool-unreadable": "a part of it is not readable",
    # train: why a number of a watched net is missing
    "watch-bare": "it is a parameter of its own and no layer: it has no output",
    "watch-frozen": "it is frozen",
    "watch-gone": "its module is gone",
    "watch-inside": "it lies inside its module's computation; the last of the module's weights has the output",
    "watch-kind": "its weight is no ordinary tensor of this process: a part on each of several machines, or packed numbers",
    "watch-no-gradient": "no gradient has reached it, though it was called",
    "watch-no-optimizer": "no optimiser holds it",
    "watch-no-pass": "no backward pass has come to its output",
    "watch-not-measured": "a watch does not measure it",
    "watch-not-stepped": "its optimiser has not stepped",
    "watch-nothing-pushed": "none of its entries has a gradient",
    "watch-overflown": "the gradient had overflown, so the step was left out",
    "watch-ranks": "several processes train together, and only in DistributedDataParallel is it known whose mean a loss is",
    "watch-scripted": "it is scripted or traced by torch.jit, and what runs inside is not seen",
    "watch-sparse": "it does not apply to a sparse gradient",
    "watch-twice": "more than one backward pass went through one forward pass, and their sum is not known",
    "watch-uncalled": "its forward ran past its hooks: called directly, compiled by torch.compile, or replayed as a CUDA graph",
    "watch-unseen": "its backward pass was not seen, only what the optimiser got",
    "watch-unused": "it was not called",
    "watch-zero-weight": "all its weights are 0",
    # train: what a watch says
    "watch-model": "watch(model, …) takes a torch.nn.Module; {kind} is none.",
    "watch-optimizer": "watch(model, optimizer) takes an optimiser of torch.optim, a list of them, or none; {kind} is neither.",
    "watch-every": 'every must be a whole number of steps, 1 or more, or "auto"; {every} is not.',
    "watch-to": "to must be the address of a server, such as https://gradviz.example; {to!r} is not.",
    "watch-to-token": "to needs the server's token in the environment variable GRADVIZ_INGEST_TOKEN: 16 to 200 characters.",
    "send-away": "{to} does not take the run at present ({error}); it is asked again, and the file is here meanwhile.",
    "send-not": "{to} has not taken the run: {error}.",
    "send-refused": "{to} does not take the run, which stays in its file here. It says: {answer}",
    "watch-no-weights": "This net has no weight of two dimensions or more, so there is nothing to watch.",
    "watch-not-its": "This optimiser holds no weight of two dimensions or more of this net.",
    "watch-refused": "This net cannot be watched: {error}",
    "watch-engine": "{engine} keeps weights and gradients where no single one can be measured: this training is not recorded.",
    "watch-rank": "This process records nothing: the first of those that train together does.",
    "watch-broken": "The recording has stopped, and the training goes on: {error}",
    "watch-disk": "The recording has stopped, and the training goes on: {path} cannot be written ({error}).",
    "watch-log": "log takes loss and accuracy as numbers; {name} is not one, and is left out.",
    "watch-closed": "This run is closed: log keeps nothing more.",
    "watch-replaced": "The net is watched anew.",
    "watch-gone-net": "The net is gone.",
    "watch-failed": "The training failed: {kind}.",
    "watch-interrupted": "The process that trained was ended from outside; what it had recorded until then is here.",
    **STORE,
}
