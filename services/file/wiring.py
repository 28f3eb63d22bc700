"""Where the objects of the file service meet."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from parley.file.v1 import file_service_pb2
from services.file.domain.claims import Claims
from services.file.domain.downloads import Downloads
from services.file.domain.files import Files
from services.file.domain.limits import UploadLimits
from services.file.domain.purge import Purge
from services.file.domain.readers import open_readers
from services.file.domain.slots import Slots
from services.file.domain.sweep import Sweep
from services.file.domain.uploads import Uploads
from services.file.domain.verification import Verification
from services.file.jobs import PURGE_USER, REMOVE_DELETED_FILES, REMOVE_UNFINISHED_UPLOADS
from services.file.mapping.chunks import ChunkDecoder
from services.file.models import Usage
from services.file.owners import open_owners
from services.file.servicer.downloads import DownloadServicer
from services.file.servicer.files import FilesServicer
from services.file.servicer.uploads import UploadServicer
from services.file.settings import FileJobSettings, FileSettings, FileStoreSettings
from services.file.store import PartStore, open_parts
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.identity import open_identity
from services.kit.ids import utc_now
from services.kit.jobs import Job
from services.kit.messages import Decoder
from services.kit.purge import step_after
from services.kit.server import Service

STREAM_WINDOW = 256 * 1024
FILE_SERVICE = file_service_pb2.DESCRIPTOR.services_by_name["FileService"]


@asynccontextmanager
async def open_file(settings: FileSettings) -> AsyncIterator[Service]:
    """The file service over its database and store, closed in reverse order at the end."""
    async with (
        Database.open(settings, role="file") as db,
        open_identity(settings, "file") as identity,
        open_owners(settings.chat_address, settings.agent_address, identity.tokens) as owners,
        open_readers(owners) as readers,
        _open_store(settings) as store,
    ):
        limits = _limits(settings)
        claims = Claims(db, clock=utc_now, limits=limits)
        uploads = Uploads(db, store, claims, clock=utc_now, limits=limits)
        downloads = Downloads(
            db,
            store,
            readers,
            piece_bytes=settings.file_download_chunk_bytes,
            slots=Slots(in_the_process=settings.file_max_downloads, for_a_user=settings.file_max_downloads_per_user),
        )
        files = Files(db, readers, clock=utc_now, deleted_kept=settings.deleted_after)
        try:
            yield Service(
                name="file",
                registrations=[
                    Registration(
                        FILE_SERVICE,
                        (
                            UploadServicer(uploads, claims),
                            DownloadServicer(downloads, idle_timeout=limits.idle_timeout),
                            FilesServicer(files),
                        ),
                        decoders={
                            "CreateUpload": Decoder(file_service_pb2.CreateUploadRequest, carries_bytes=False),
                            "UploadFile": ChunkDecoder(file_service_pb2.UploadFileRequest),
                            "UploadFiles": ChunkDecoder(file_service_pb2.UploadFilesRequest),
                        },
                    )
                ],
                identity=identity,
                is_ready=lambda: db.is_ready,
                stream_window=STREAM_WINDOW,
            )
        finally:
            await uploads.settle()


@asynccontextmanager
async def open_file_jobs(settings: FileJobSettings) -> AsyncIterator[Sequence[Job]]:
    """What the worker does for files."""
    async with (
        Database.open(settings, role="file") as db,
        _open_store(settings) as store,
    ):
        sweep = Sweep(db, store, clock=utc_now)
        yield [
            Job(REMOVE_UNFINISHED_UPLOADS, sweep.remove_unfinished_uploads, cron="* * * * *"),
            Job(REMOVE_DELETED_FILES, sweep.remove_deleted_files, cron="* * * * *"),
            Job(PURGE_USER, Purge(db, store, clock=utc_now).purge_user, then=step_after(PURGE_USER)),
        ]


@asynccontextmanager
async def open_verification(settings: FileStoreSettings) -> AsyncIterator[Verification]:
    """What an operator compares beside the running service, once the database is there."""
    async with Database.open(settings, role="file") as db, _open_store(settings) as store:
        await db.wait_ready()
        yield Verification(db, store, clock=utc_now)


def _open_store(settings: FileStoreSettings) -> AbstractAsyncContextManager[PartStore]:
    return open_parts(settings.store_url, threads=settings.file_store_threads, timeout=settings.file_store_timeout)


def _limits(settings: FileSettings) -> UploadLimits:
    return UploadLimits(
        max_file_bytes=settings.file_max_bytes,
        part_bytes=settings.file_part_bytes,
        memory_bytes=settings.file_upload_memory_bytes,
        max_on_a_stream=settings.file_max_open_uploads,
        max_in_the_process=settings.file_max_uploads,
        max_for_a_user=settings.file_max_uploads_per_user,
        idle_timeout=timedelta(seconds=settings.file_idle_timeout),
        unfinished_kept=settings.unfinished_after,
        named_kept=timedelta(seconds=settings.file_upload_expiry),
        quota=Usage(settings.file_quota_bytes, settings.file_quota_files),
    )
