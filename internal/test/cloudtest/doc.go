// Package cloudtest holds what every implementation of the ports of package
// bastion is tested with.
//
// [Store], [Groups], [Tasks] and [Leases] are conformance suites, one for each
// port. They run against the cloud in memory and against the real services (or
// their emulators), so that they never assume that a read of groups or tasks is
// fresh: they look until they see, for as long as the harness is patient.
//
// [Wrap] puts a [Hook] between a service and its ports. Hooks make a chosen call
// fail before its effect or after it, hang, or pause there, and note which calls
// were made; [At] chooses. A test by reflection holds that no call gets past.
package cloudtest
