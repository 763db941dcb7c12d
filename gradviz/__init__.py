"""gradviz: see gradients vanish and explode in a deep LeNet, and what cures them.

A RunConfig says what to train, and lenet.experiment makes a task of it: a DeepLeNet, its data, its optimiser. Trainer
(train) iterates any task, a LayerProbe measures every layer at every step, and each step becomes a StepRecord in the
History of a Run (record). RunManager (serve) queues and shares runs, RunStore (store) keeps them; lenet.theory predicts and
diagnosis explains what they show. The page (app.py, pages/, gradviz.ui, gradviz.web) only looks.
"""
