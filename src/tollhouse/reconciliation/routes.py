"""The address of reconciliation. Whoever mounts it lets super-admins alone through."""

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from tollhouse.keys.model import Principal
from tollhouse.reconciliation.body import ReconciliationReport, ReconciliationRequest
from tollhouse.reconciliation.service import Reconciliation


class ReconciliationRoutes(Controller):
    """Matching the ledger with providers' own usage."""

    path = "/admin/reconciliations"
    tags = ("Reconciliation",)

    @post(status_code=200)
    async def reconcile(
        self,
        reconciliation: NamedDependency[Reconciliation],
        principal: NamedDependency[Principal],
        data: JSONBody[ReconciliationRequest],
    ) -> ReconciliationReport:
        """Match a provider's own usage with the ledger, and resolve the calls of unknown outcome that it explains."""
        buckets = [sent.bucket() for sent in data.buckets]
        found = await reconciliation.reconcile(data.provider, buckets, actor=principal.key_id, dry_run=data.dry_run)
        return ReconciliationReport.of(data, found)
