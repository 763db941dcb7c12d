"""gradviz: see gradients vanish and explode in a deep LeNet, and what cures them.

A RunConfig (config) says what to train; Trainer (trainer) iterates it on a DeepLeNet (model), a LayerProbe (probe)
measures every layer at every step, and each step becomes a StepRecord in the History of a Run (runs). RunManager
(manager) queues and shares runs, RunStore (store) keeps them; lenet.theory predicts and diagnosis explains what they show.
The page (app.py, pages/, gradviz.ui, gradviz.web) only looks.
"""
