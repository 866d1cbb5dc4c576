"""What is to be said of the evidence: findings with remedies. Pure; the thresholds are our choice."""

from exo.doctor.evidence import Evidence
from exo.doctor.examine import https, machine, models, network
from exo.doctor.finding import Finding, by_urgency

__all__ = ["examine"]


def examine(evidence: Evidence) -> tuple[Finding, ...]:
    """What is to be said, the worst first."""
    findings = [
        *machine.examine(evidence),
        *https.examine(evidence),
        *network.examine(evidence),
        *models.examine(evidence),
    ]
    ours = {finding.subject for finding in findings}
    # Both doctors look at the machine's memory and its limits: once is enough.
    findings += [finding for finding in evidence.board if finding.subject not in ours]
    findings += [
        Finding("note", unread.what, f"could not be looked at: {unread.why}") for unread in evidence.unread
    ]
    return by_urgency(findings)
