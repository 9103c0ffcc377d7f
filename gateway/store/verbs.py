"""Every script that there is a call for. One class a verb."""

from __future__ import annotations

from gateway.store.queue_calls import AlarmsCall, ConfigureCall, LimitCall, PurgeCall, RingCall, SettingsCall, WatchCall
from gateway.store.read_calls import LeasesCall, PageCall, ReadCall, StatsCall
from gateway.store.report_calls import CompleteCall, FailCall, HeartbeatCall, ReleaseCall
from gateway.store.script_call import ScriptCall
from gateway.store.task_calls import CancelCall, ClaimCall, DeleteCall, EnqueueCall, ExpireCall, PatchCall, RetryCall

VERBS: tuple[type[ScriptCall], ...] = (
    EnqueueCall,
    ClaimCall,
    HeartbeatCall,
    CompleteCall,
    FailCall,
    ReleaseCall,
    ExpireCall,
    CancelCall,
    RetryCall,
    PatchCall,
    DeleteCall,
    PurgeCall,
    ConfigureCall,
    SettingsCall,
    LimitCall,
    AlarmsCall,
    WatchCall,
    RingCall,
    LeasesCall,
    ReadCall,
    PageCall,
    StatsCall,
)
