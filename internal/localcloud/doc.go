// Package localcloud is a cloud in memory: the ports of package bastion as
// DynamoDB, EC2 and ECS behave where it hurts. Reads of groups and tasks may be
// stale, a task takes its time to start and gets its address on the way, a
// repeated RunTask answers the first task, a group cannot be deleted while an
// interface lingers, removing a rule cuts nobody off, and capacity runs out.
//
// Local mode runs real SSH servers on it, as a [Runner] with sockets. Tests of
// faults and of waiting run a Runner that needs none, so that a bastion's whole
// life fits into a testing/synctest bubble. All waiting is done with timers of
// package time, and [Cloud.Close] ends every goroutine.
package localcloud
