"""Everything that runs in Spark. Modules in reading order:

- ``session``: starts Spark, and what it is configured with.
- ``cluster``: what executors on other machines need.
- ``shared_folder``: whether all machines of a cluster see the checkpoint folder.
- ``queries``: the topic as a stream, and the alerts query.
- ``windows``: the windows query, and what happens to a batch, in order.
- ``fold``, ``lateness``, ``groups``: the Python steps of a batch.
- ``contexts``: what a batch must know of the batches before it.
- ``rejected``: writes rejected messages, from inside the tasks.
- ``alerts``: alerts as Spark expressions, with the validator's verdict.
- ``harmless``: the messages that raise no alert, recognised without parsing.
- ``checkpoints``: which topic a checkpoint is about, and who uses it.
- ``remote_path``, ``remote_lease``: checkpoints on HDFS, S3 and other file systems of Spark's, and who owns them.
- ``damage``: whether a checkpoint is really damaged.
- ``errors``: explains Spark's errors in one line.
- ``board``: the newest windows as a table on the terminal.
- ``codegen``, ``worker``: these two only make batches faster.
"""
