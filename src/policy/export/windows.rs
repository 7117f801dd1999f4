//! Windows: QoS policies that mark, and routes past a VPN, both for PowerShell.

use super::{ExportFormat, ExportWriter, Selection};

/// QoS policies. One direction: a workstation marks what it sends.
pub(super) const QOS: ExportFormat = ExportFormat {
    name: "windows-qos",
    about: "Windows: QoS policies that mark what this machine sends. Run in PowerShell as administrator",
    comment: Some("#"),
    write: qos,
};

/// Routes by the physical interface.
pub(super) const ROUTES: ExportFormat = ExportFormat {
    name: "windows-routes",
    about: "Windows: routes past the VPN until the next restart. Run in PowerShell as administrator",
    comment: Some("#"),
    write: routes,
};

fn qos(selection: &Selection<'_>, out: &mut ExportWriter) {
    out.comment("What an earlier run left goes first.");
    out.line(
        "Get-NetQosPolicy | Where-Object Name -Like 'voicelane *' | Remove-NetQosPolicy -Confirm:$false",
    );
    for selector in selection.selectors_by_range() {
        let (ports, dscp) = (selector.ports[0], selector.treatment.dscp.value());
        out.comment(&selector.services.join(", "));
        for prefix in &selector.prefixes {
            let (protocol, name) = (
                selector.protocol,
                format!("{} {prefix} {ports}", selector.protocol),
            );
            out.line(format!(
                "New-NetQosPolicy -Name 'voicelane {name}' -NetworkProfile All -IPProtocolMatchCondition {} \
                 -IPDstPrefixMatchCondition '{prefix}' -IPDstPortStartMatchCondition {} -IPDstPortEndMatchCondition {} \
                 -DSCPAction {dscp}",
                protocol.to_string().to_uppercase(),
                ports.first(),
                ports.last(),
            ));
        }
    }
}

fn routes(selection: &Selection<'_>, out: &mut ExportWriter) {
    selection.note_addresses_only(out);
    out.note("a VPN client that watches the routing table may remove these routes");
    out.line("$prefixes = @(");
    for prefix in selection.prefixes() {
        out.line(format!("    '{prefix}'"));
    }
    out.line(")");
    out.line(PAST_THE_VPN);
}

/// The default route of a physical interface carries each prefix of its family.
const PAST_THE_VPN: &str = "\
foreach ($prefix in $prefixes) {
    $any = if ($prefix.Contains(':')) { '::/0' } else { '0.0.0.0/0' }
    $uplink = Get-NetRoute -DestinationPrefix $any -ErrorAction SilentlyContinue |
        Where-Object { (Get-NetAdapter -InterfaceIndex $_.InterfaceIndex -ErrorAction SilentlyContinue).HardwareInterface } |
        Sort-Object { $_.RouteMetric + $_.InterfaceMetric } |
        Select-Object -First 1
    if (-not $uplink) {
        Write-Warning \"No physical way out for ${prefix}: it stays in the VPN.\"
        continue
    }
    Remove-NetRoute -DestinationPrefix $prefix -PolicyStore ActiveStore -Confirm:$false -ErrorAction SilentlyContinue
    New-NetRoute -DestinationPrefix $prefix -InterfaceIndex $uplink.InterfaceIndex -NextHop $uplink.NextHop `
        -PolicyStore ActiveStore | Out-Null
}";
