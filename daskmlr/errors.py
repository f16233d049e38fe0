"""Exceptions and warnings; each message says what was wanted, got, where, and what to do."""

from __future__ import annotations


class DaskmlrError(Exception):
    """Base of every error that daskmlr raises on purpose."""


class InputError(DaskmlrError, ValueError):
    """The data or a parameter given by the user cannot be used."""


class StoreError(DaskmlrError):
    """A task store, model or table on disk cannot be used."""


class IncompleteStoreError(StoreError):
    """The writer of a store was stopped before it published."""


class DamagedStoreError(StoreError):
    """A chunk is missing, cut short, or does not match its checksum."""


class PathExistsError(StoreError, FileExistsError):
    """The output path exists already; nothing was overwritten."""


class ReadError(StoreError, OSError):
    """A store could not be read, for a reason of the machine or the network and not of its data."""


class CheckpointError(StoreError):
    """What an interrupted run has left cannot be taken up by this one."""


class NoSpaceError(StoreError, OSError):
    """The disk has too little room for the output."""


class AccessError(StoreError, OSError):
    """An object store refused access, or did not answer."""


class MissingColumnError(InputError):
    """A table lacks a column."""


class FeatureMismatchError(InputError):
    """A model was fitted on other features than the data at hand."""


class InformationError(DaskmlrError, ValueError):
    """The data do not fix the parameters: their observed information is singular."""


class PlanError(DaskmlrError, MemoryError):
    """A run cannot fit into the memory it was given."""


class ClusterError(DaskmlrError, RuntimeError):
    """A Dask cluster cannot be started, or its processes cannot do what a run needs."""


class WorkerError(DaskmlrError):
    """A worker failed, or code that it ran for a pass."""


class SchedulerError(DaskmlrError, ConnectionError):
    """The connection to the Dask scheduler was lost."""


class DaskmlrWarning(UserWarning):
    """Base of every warning that daskmlr gives."""


class ComponentWarning(DaskmlrWarning):
    """The fitted components cannot all be trusted: empty, superfluous, merged, or not agreed on."""


class StructureWarning(DaskmlrWarning):
    """The tasks show no sign of more than one regression."""


class DamageWarning(DaskmlrWarning):
    """Damaged blocks were left out, as asked for."""


class ClusterWarning(DaskmlrWarning):
    """Processes of a Dask cluster differ, a pass does not move, a worker fails; the run goes on."""
