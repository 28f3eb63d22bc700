"""The part of UserService that is about the accounts of services."""

from uuid import UUID

from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.domain.service_accounts import ServiceAccounts
from services.auth.mapping.services import to_service_account
from services.auth.servicer.actor import actor_of
from services.kit.calls import Call
from services.kit.pages import next_page_token, read_page

LIST = "service-accounts"


class ServiceAccountRpcs:
    """From an account's making to its end."""

    def __init__(self, accounts: ServiceAccounts) -> None:
        self._accounts = accounts

    async def CreateServiceAccount(
        self, request: pb2.CreateServiceAccountRequest, call: Call
    ) -> pb2.CreateServiceAccountResponse:
        account, secret = await self._accounts.create_service_account(request.name, request.methods, actor_of(call))
        return pb2.CreateServiceAccountResponse(service_account=to_service_account(account), client_secret=secret)

    async def ListServiceAccounts(
        self, request: pb2.ListServiceAccountsRequest, call: Call
    ) -> pb2.ListServiceAccountsResponse:
        page = await self._accounts.list_service_accounts(
            actor_of(call), read_page(LIST, request.page_size, request.page_token, request.skip)
        )
        return pb2.ListServiceAccountsResponse(
            service_accounts=[to_service_account(account) for account in page.items],
            next_page_token=next_page_token(LIST, page.next_after),
            total_size=page.total_size,
        )

    async def RotateServiceAccountSecret(
        self, request: pb2.RotateServiceAccountSecretRequest, call: Call
    ) -> pb2.RotateServiceAccountSecretResponse:
        account, secret = await self._accounts.rotate_service_account_secret(
            UUID(request.service_account_id),
            request.overlap.ToTimedelta() if request.HasField("overlap") else None,
            actor_of(call),
        )
        return pb2.RotateServiceAccountSecretResponse(service_account=to_service_account(account), client_secret=secret)

    async def DeleteServiceAccount(
        self, request: pb2.DeleteServiceAccountRequest, call: Call
    ) -> pb2.DeleteServiceAccountResponse:
        await self._accounts.delete_service_account(UUID(request.service_account_id), actor_of(call))
        return pb2.DeleteServiceAccountResponse()
